"""Where a train step's time goes and how it grows: counts by other means, and what is refused."""

import json
import math
from collections import Counter
from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.stats
from flax import linen as nn
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from programs import check_refused, program

from experiments.measurements import measuring, profiling
from experiments.measurements.profiling import Instruction, Span

SMALLEST = (
    "unet(sample_size=4,in_channels=1,out_channels=1,block_out_channels=(4,),layers_per_block=1,"
    "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',),"
    "norm_num_groups=2,attention_head_dim=None)"
)
# Halves and doubles, and has attention and shortcuts.
VARIED = (
    "unet(sample_size=8,block_out_channels=(4,8),layers_per_block=1,"
    "down_block_types=('DownBlock2D','AttnDownBlock2D'),up_block_types=('UpBlock2D','UpBlock2D'),"
    "norm_num_groups=2,attention_head_dim=None)"
)
BATCH = 2


def train_step(name):
    """The train step of a model as a jaxpr, and its operations."""
    model = measuring.build(name)
    shape = measuring.image_shape(model)
    step, state = measuring.training(model, measuring.random_params(model, shape))
    arguments = state, jax.random.key(0), measuring.images(BATCH, shape)
    return jax.make_jaxpr(step)(*arguments).jaxpr, measuring.flops(step, *arguments)


def convolutions(name):
    """Operations of each convolution by its name, of the arrays that its module sees."""
    model, found = measuring.build(name), {}

    def count(call, args, kwargs, context):
        y = call(*args, **kwargs)
        if isinstance(context.module, nn.Conv):
            taps = math.prod(context.module.kernel_size) * args[0].shape[-1]
            found["/".join(context.module.path)] = 2 * y.size * taps
        return y

    x = jnp.zeros((BATCH, *measuring.image_shape(model)))
    with nn.intercept_methods(count):
        jax.eval_shape(model.init, jax.random.key(0), x, jnp.zeros(BATCH))
    return found


def test_every_convolution_is_attributed():
    """A convolution's two gradients take what it takes, but nobody asks for the images' own."""
    jaxpr, total = train_step(VARIED)
    parts = Counter()
    for scope, count in measuring.products(jaxpr):
        parts[profiling.part_of(scope)] += count
    direct = convolutions(VARIED)
    assert len(direct) == 25
    assert parts["convolution"] == parts["weight gradient"] == sum(direct.values())
    assert parts["input gradient"] == sum(direct.values()) - direct["conv_in"]
    # Nothing else multiplies: 2·2·T²·D for softmax(q kᵀ) v, and four dense layers, thrice.
    tokens, width = 4 * 4, 8
    attention = 2 * BATCH * (2 * tokens**2 * width + 4 * tokens * width**2)
    assert parts["attention"] == 2 * 3 * attention
    # On a CPU group norms multiply a few means by 0 and 1.
    assert parts.keys() - {"dense and time", "normalisation"} == {
        "convolution", "input gradient", "weight gradient", "attention",
    }  # fmt: skip
    assert parts.total() == total


@pytest.mark.parametrize(
    ("scope", "part"),
    [
        ("jit(step)/jvp(UNet)/up_blocks_0/resnets_0/jit(silu)/mul", "activation"),
        ("jit(step)/transpose(jvp(UNet))/mid_block/attentions_0/group_norm/sub", "normalisation"),
        ("jit(step)/jvp(UNet)/UNet._norm_out/conv_norm_out/add", "normalisation"),
        ("jit(step)/transpose(jvp(UNet))/conv_out/reduce_sum", "convolution bias"),
        ("jit(step)/jvp(UNet)/UNet._embed/time_embedding/jit(silu)/div", "dense and time"),
        ("jit(step)/jvp(UNet)/up_blocks_0/upsamplers_0/broadcast_in_dim", "resampling"),
        ("jit(step)/jvp(UNet)/up_blocks_0/concatenate", "sums and skips"),
        ("jit(step)/jvp(vmap(jit(_normal)))/jit(_normal_real)/erf_inv", "loss and noise"),
        ("jit(step)/jit(_threefry_fold_in)/while", "loss and noise"),
        ("jit(step)/jvp()/sub", "loss and noise"),
        ("jit(step)/transpose(jvp())/mul;jit(step)/jvp(UNet)/conv_in/add", "loss and noise"),
        (
            "jit(step)/transpose(jvp(UNet))/jvp(UNet)/checkpoint/rematted_computation/conv1/forward/"
            "conv_general_dilated",
            "recomputation",
        ),
        ("jit(step)/reduce_sum", "optimizer"),
        ("state.params['conv_in']['kernel']", "everything else"),
    ],
)
def test_parts_of_scopes(scope, part):
    assert profiling.part_of(scope) == part


@given(
    st.lists(
        st.tuples(st.sampled_from("abc"), st.integers(0, 12), st.integers(0, 6)),
        min_size=1,
        max_size=8,
    )
)
def test_shares_are_those_of_every_moment(ran):
    """Against a count, moment by moment, of what runs; c contains the others."""
    spans = [Span(name, start, start + length // 2, start + length) for name, start, length in ran]
    expected = Counter()
    for moment in range(min(s.start for s in spans), max(s.end for s in spans)):
        now = [s for s in spans if s.start <= moment < s.end]
        front = [s for s in now if s.name != "c" and moment < s.returned]
        names = [s.name for s in front or now] or [""]
        for name in names:
            expected[name] += 1 / len(names)
    found = profiling.shares(spans, {"c"})
    assert {k: v for k, v in found.items() if v} == pytest.approx(dict(expected))


@pytest.mark.parametrize(
    ("shape", "count"),
    [
        ("f32[2,3]{1,0}", 24),
        ("bf16[5]{0}", 10),
        ("pred[7]{0}", 7),
        ("s32[]", 4),
        ("f8e4m3fn[4,2]{1,0:T(8,128)}", 8),
        ("(f32[2]{0}, u8[3]{0}, /*index=2*/token[])", 11),
    ],
)
def test_bytes_of_shapes(shape, count):
    assert profiling.size(shape) == count


def test_scopes_of_instructions_that_have_none():
    """From the root of what a fusion fuses, or from the first operand that has one."""
    text = """HloModule jit_step, entry_computation_layout={(f32[2]{0})->f32[2]{0}}

%fused (p.1: f32[2]) -> f32[2] {
  %p.1 = f32[2]{0} parameter(0)
  ROOT %sine.1 = f32[2]{0} sine(%p.1), metadata={op_name="jit(step)/first/sin"}
}

ENTRY %main (x: f32[2]) -> f32[2] {
  %x = f32[2]{0} parameter(0)
  %fusion.7 = f32[2]{0} fusion(%x), kind=kLoop, calls=%fused
  %pair = (f32[2]{0}, f32[2]{0}) tuple(%x, %fusion.7)
  ROOT %copy.3 = f32[2]{0} copy(%fusion.7)
}
"""
    found = profiling.instructions(text)
    scopes = {name: own.scope for name, own in found.items()}
    first = "jit(step)/first/sin"
    assert scopes == {
        "p.1": "", "sine.1": first, "x": "", "fusion.7": first, "pair": first, "copy.3": first,
    }  # fmt: skip
    assert found["pair"] == ("tuple", first, 16, ("x", "fusion.7"))


def test_the_part_of_an_instruction_is_its_scopes():
    text = {
        "average": Instruction("fusion", "jit(step)/cond/branch_1_fun/ema/add", 40, ()),
        "moment": Instruction("fusion", "jit(step)/cond/branch_1_fun/add", 40, ()),
        "norm": Instruction("fusion", "jit(step)/jvp(UNet)/norm1/mul", 40, ()),
    }
    parts = [profiling.part_of_instruction(name, text) for name in text]
    assert parts == ["EMA", "optimizer", "normalisation"]
    assert profiling.part_of_instruction("kernel", text) == "everything else"
    assert profiling.part_of_instruction("", text) == "between instructions"


def test_instructions_run_under_the_names_of_the_compiled_text():
    """A product of matrices and what follows: where each comes from, what it moves, how often."""

    def function(a, b):
        with jax.named_scope("first"):
            product = a @ b
        with jax.named_scope("second"):
            return jnp.sin(jnp.sort(product, axis=0))

    a, b = jnp.ones((300, 20)), jnp.ones((20, 500))
    compiled = jax.jit(function).lower(a, b).compile()
    text = profiling.instructions(compiled.as_text())
    ran = profiling.traced(lambda: compiled(a, b), 3)
    times = Counter(span.name for span in ran)
    assert times.keys() <= text.keys()
    assert all(count % 3 == 0 for count in times.values())
    assert all(span.end >= span.start for span in ran)
    of_scope = {s: [n for n in times if f"/{s}/" in text[n].scope] for s in ("first", "second")}
    assert sum(map(len, of_scope.values())) == len(times)
    (product,) = of_scope["first"]
    assert profiling.traffic(product, text) == 4 * (300 * 20 + 20 * 500 + 300 * 500)
    shared = profiling.shares(ran)
    whole = max(span.end for span in ran) - min(span.start for span in ran)
    assert sum(shared.values()) == pytest.approx(whole)


def trace(**planes):
    """What the profiler would hand over, an event being its name, start, length and stats."""

    def event(name, start, length, **stats):
        return SimpleNamespace(name=name, start_ns=start, duration_ns=length, stats=stats.items())

    made = [
        SimpleNamespace(
            name=plane,
            lines=[
                SimpleNamespace(name=name, events=[event(*e[:3], **e[3]) for e in events])
                for name, events in lines.items()
            ],
        )
        for plane, lines in planes.items()
    ]
    return SimpleNamespace(planes=made)


def test_spans_of_a_cpu_end_where_the_last_thread_ends_them():
    own = [
        ("call", 0, 9000, {}),
        ("conv.1", 1000, 2000, {"hlo_op": "conv.1", "_p": 7}),
        ("add.2", 3000, 1000, {"hlo_op": "add.2", "_p": 8}),
        ("end: add.2", 3900, 100, {"_c": 8}),
    ]
    other = [("end: conv.1", 6000, 100, {"_c": 7})]
    found = profiling.spans(trace(**{"/host:CPU": {"main": own, "pool": other}}))
    assert list(found) == [Span("conv.1", 1e-6, 3e-6, 6e-6), Span("add.2", 3e-6, 4e-6, 4e-6)]


def test_spans_of_a_gpu_are_its_kernels_and_no_summary():
    op = {"hlo_op": "fusion.3"}
    lines = {
        "Stream #13(Kernel)": [("kernel", 100, 50, op), ("MemcpyD2H", 200, 9, {})],
        "XLA Modules": [("jit_step", 0, 900, op)],
    }
    host = {"python": [("python", 0, 1000, {})]}
    found = profiling.spans(trace(**{"/device:GPU:0": lines, "/host:CPU": host}))
    assert list(found) == [Span("fusion.3", 100 / 1e9, 150 / 1e9, 150 / 1e9)]


@pytest.mark.slow
def test_train(tmp_path):
    """Parts take all of the time and do all of the work, and each variant is shown."""
    done = program(
        "benchmark", "train", f"--model={SMALLEST}", f"--batch_size={BATCH}", f"--out={tmp_path}",
        "--steps=2", "--rounds=1", "--variant=float32", "--variant=bfloat16",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    found = json.loads((tmp_path / "train.json").read_text())
    rows = {row["variant"]: row for row in found["variants"]}
    assert rows.keys() == {"float32", "bfloat16"}
    _, flops = train_step(SMALLEST)
    model = measuring.build(SMALLEST)
    params = measuring.random_params(model, measuring.image_shape(model))
    weights = sum(leaf.nbytes for leaf in jax.tree.leaves(params))
    for row in rows.values():
        parts = {part["part"]: part for part in row["parts"]}
        whole = sum(part["seconds"] for part in parts.values())
        assert whole == pytest.approx(row["profiled_seconds"])
        assert row["flops"] == flops == sum(part["flops"] for part in parts.values())
        for name in ("convolution", "input gradient", "weight gradient", "attention"):
            assert parts[name]["flops"] > 0 < parts[name]["seconds"]
        # Adam reads parameter, gradient and two moments, and writes three; the average is its own.
        assert parts["optimizer"]["bytes"] >= 7 * weights
        assert parts["EMA"]["bytes"] >= 3 * weights
        for part in parts.values():
            least = (part["flops"] / row["peak"], part["bytes"] / row["bandwidth"])
            assert part["roof"] == pytest.approx(max(least))
        assert row["temporary_bytes"] > 0 < row["seconds"]
    assert Image.open(tmp_path / "train.png").size[0] > 1000
    lines = done.stdout.splitlines()
    assert sum(line.startswith("weight gradient ") for line in lines) == 2
    assert any(line.split()[:1] == ["float32"] and line.split()[2] == "1.00" for line in lines)


@pytest.mark.slow
def test_scaling(tmp_path):
    """Twice the width has four times the weights, and two points lie on their line."""
    done = program(
        "benchmark", "scaling", f"--model={SMALLEST}", f"--batch_size={BATCH}", f"--out={tmp_path}",
        "--rounds=1", "--over=width", "--width=2", "--width=1", "--over=batch", "--batch=1",
        "--batch=2",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    axes = json.loads((tmp_path / "scaling.json").read_text())["axes"]
    assert [axis["over"] for axis in axes] == ["width", "batch"]
    for axis in axes:
        assert [point["value"] for point in axis["points"]] == [1, 2]
        small, large = axis["points"]
        for what in ("seconds", "bytes"):
            assert axis[what]["p"] == pytest.approx(math.log2(large[what] / small[what]), abs=1e-6)
            assert axis[what]["a"] == pytest.approx(small[what])
            assert axis[what]["error"] is None
        assert f"memory ~ {axis['over']}^({axis['bytes']['p']:.2f})" in done.stdout
    (narrow, wide), (one, two) = (axis["points"] for axis in axes)
    assert narrow["bytes"] == two["bytes"]  # the same step, measured twice
    held = [point["bytes"] - point["temporary_bytes"] for point in (narrow, wide, one, two)]
    # Four times, less the ends: what holds bias, scale or one channel grows twofold only.
    assert 3 < held[1] / held[0] < 4
    assert 0 < held[3] - held[2] <= 1024  # an image of 4x4 and its padding
    assert Image.open(tmp_path / "scaling.png").size[0] > 500


@given(
    st.floats(-3, 3),
    st.floats(-5, 5),
    st.lists(st.integers(1, 64), min_size=3, max_size=8, unique=True),
)
def test_exponents_are_found(p, log_a, x):
    found = measuring.fit(x, [math.exp(log_a) * value**p for value in x])
    assert found.p == pytest.approx(p, abs=1e-6)
    assert found.a == pytest.approx(math.exp(log_a), rel=1e-5)
    assert found.error == pytest.approx(0, abs=1e-5)


@given(st.lists(st.floats(-0.5, 0.5), min_size=6, max_size=6))
def test_errors_are_scipys(noise):
    x = np.array([1, 2, 4, 8, 16, 32])
    y = 3 * x**0.9 * np.exp(noise)
    found, theirs = measuring.fit(x, y), scipy.stats.linregress(np.log(x), np.log(y))
    assert found.p == pytest.approx(theirs.slope, abs=1e-9)
    assert found.error == pytest.approx(theirs.stderr, abs=1e-7)


def test_what_is_refused(tmp_path):
    sized = f"--model={SMALLEST}"
    for flags, message in (
        (("train", "--model=unet"), "write unet(sample_size=32, ...)"),
        (("train", sized, "--batch_size=0"), "--batch_size=0"),
        (("train", sized, "--variant=float64"), "float32|bfloat16|remat"),
        (("train", sized.replace("=4,", "=4,dtype='bfloat16',", 1)), "leave dtype out"),
        (("scaling", sized, "--batch=3"), "give two values"),
        (("scaling", sized, "--width=0.3", "--width=1"), "choose another factor"),
    ):
        check_refused(message, "benchmark", *flags, f"--out={tmp_path}/out")
    assert not (tmp_path / "out").exists()
