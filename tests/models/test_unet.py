"""The U-Net: its size, its shapes, what it is conditioned on, and what it refuses."""

import re
import types

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax import models, spec
from diffjax.errors import UserError
from diffjax.models import layers
from diffjax.models.layers import FourierFeatures, GroupNorm, attend, fir_down, fir_up
from diffjax.models.unet import UNet

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D"),
    "up_block_types": ("AttnUpBlock2D", "UpBlock2D"),
    "layers_per_block": 1,
    "norm_num_groups": 4,
}
CIFAR10 = {
    "sample_size": 32,
    "block_out_channels": (128, 256, 256, 256),
    "down_block_types": ("DownBlock2D", "AttnDownBlock2D", "DownBlock2D", "DownBlock2D"),
    "up_block_types": ("UpBlock2D", "UpBlock2D", "AttnUpBlock2D", "UpBlock2D"),
    "attention_head_dim": None,
    "norm_eps": 1e-6,
    "downsample_padding": 0,
    "flip_sin_to_cos": False,
    "freq_shift": 1,
}
SKIPS = {
    **TINY,
    "block_out_channels": (32, 32),
    "down_block_types": ("SkipDownBlock2D", "AttnSkipDownBlock2D"),
    "up_block_types": ("AttnSkipUpBlock2D", "SkipUpBlock2D"),
    "time_embedding_type": "fourier",
    "norm_num_groups": None,
}
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 8, 3))
TIMES = jnp.array([0.0, 10.0, 999.0])


def noisy_params(model, *args):
    """Parameters away from what they start as: then the last layer is all zeros."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.2, p.shape), p.dtype), shapes)


@pytest.fixture(scope="module")
def tiny():
    model = UNet(**TINY)
    return model, noisy_params(model, IMAGES, TIMES), jax.jit(model.apply)


def shapes(model, images=(2, 32, 32, 3), labels=None):
    x, t = jax.ShapeDtypeStruct(images, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x, t, labels)
    return params, jax.eval_shape(model.apply, params, x, t, labels)


def test_cifar10_has_as_many_parameters_as_the_published_model():
    params, out = shapes(UNet(**CIFAR10))
    assert sum(p.size for p in jax.tree.leaves(params)) == 35_746_307
    chex.assert_shape(out, (2, 32, 32, 3))


def test_defaults_build_and_apply():
    _, out = shapes(UNet())
    chex.assert_shape(out, (2, 32, 32, 3))
    assert out.dtype == jnp.float32


@pytest.mark.parametrize(
    "options",
    [
        {"in_channels": 1, "out_channels": 2},
        {"mid_block_type": None},
        {"add_attention": False, "resnet_time_scale_shift": "scale_shift"},
        {"down_block_types": ("ResnetDownsampleBlock2D", "DownBlock2D")},
        {"up_block_types": ("UpBlock2D", "ResnetUpsampleBlock2D"), "upsample_type": "resnet"},
        {"time_embedding_type": "learned", "num_train_timesteps": 10},
        SKIPS,
    ],
    ids=lambda o: next(iter(o)),
)
def test_output_is_an_image_of_the_input_size(options):
    model = UNet(**{**TINY, **options})
    _, out = shapes(model, (2, 16, 12, model.in_channels))
    chex.assert_shape(out, (2, 16, 12, model.out_channels))


def test_starts_at_zero_and_every_parameter_can_learn(tiny):
    model, noisy, apply = tiny
    start = jax.jit(model.init)(jax.random.key(0), IMAGES, TIMES)
    np.testing.assert_array_equal(apply(start, IMAGES, TIMES), 0)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.mean((model.apply(params, IMAGES, TIMES) - IMAGES) ** 2)

    grads = gradient(noisy)
    chex.assert_tree_all_finite(grads)
    for path, grad in jax.tree_util.tree_leaves_with_path(grads):
        # A bias on all keys adds the same to all logits, which softmax takes out again.
        if "'to_k']['bias" not in jax.tree_util.keystr(path):
            assert jnp.abs(grad).max() > 0, path


def test_the_machine_says_what_is_computed_in(monkeypatch):
    monkeypatch.setattr(jax, "default_backend", lambda: "cpu")
    assert UNet(**TINY).compute_dtype == "float32"
    monkeypatch.setattr(jax, "default_backend", lambda: "tpu")
    model = UNet(**TINY)
    assert model.compute_dtype == "bfloat16"
    assert spec.build(spec.render(model), models) == model, "a run is the same on every machine"
    assert UNet(**TINY, dtype="float32").compute_dtype == "float32"
    assert "dtype='float32'" in spec.render(UNet(**TINY, dtype="float32"))


@pytest.mark.parametrize(
    ("capability", "dtype", "tokens", "head", "called"),
    [
        ("8.0", jnp.bfloat16, 4, 16, True),
        ("10.3", jnp.float16, 4, 128, True),
        ("7.5", jnp.bfloat16, 4, 16, False),
        ("gfx942", jnp.bfloat16, 4, 16, False),
        ("9.0", jnp.float32, 4, 16, False),
        ("9.0", jnp.bfloat16, 5, 16, False),
        ("9.0", jnp.bfloat16, 4, 12, False),
        ("9.0", jnp.bfloat16, 4, 256, False),
    ],
)
def test_flash_attention_is_called_where_there_is_one(
    monkeypatch, capability, dtype, tokens, head, called
):
    """cuDNN's needs a GPU: here jax.nn's own mathematics answers the same call."""
    q, k, v = jax.random.normal(jax.random.key(0), (3, 2, 3, tokens, head)).astype(dtype)
    expected = attend(q, k, v)
    asked = []
    own = jax.nn.dot_product_attention

    def kernel(*args, implementation, is_causal):
        asked.append(implementation)
        return own(*args, implementation="xla", is_causal=is_causal)

    monkeypatch.setattr(jax.nn, "dot_product_attention", kernel)
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    device = types.SimpleNamespace(compute_capability=capability)
    monkeypatch.setattr(jax, "devices", lambda: [device])
    found = attend(q, k, v)
    assert asked == ["cudnn"] * called
    np.testing.assert_allclose(found.astype(float), expected.astype(float), atol=0.03)


@pytest.mark.skipif(
    not hasattr(jax.devices()[0], "compute_capability"),
    reason="needs a GPU: JAX_PLATFORMS=cuda python -m pytest tests/models -k cudnn",
)
@pytest.mark.parametrize("tokens", [256, 49])
def test_cudnns_attention_is_attention(tokens):
    q, k, v, weight = jax.random.normal(jax.random.key(0), (4, 2, 3, tokens, 64), jnp.bfloat16)

    def exact(q, k, v):
        logits = np.einsum("bhtd,bhsd->bhts", *(np.asarray(a, np.float64) for a in (q, k))) / 8
        weights = np.exp(logits - logits.max(-1, keepdims=True))
        return np.einsum("bhts,bhsd->bhtd", weights / weights.sum(-1, keepdims=True), v)

    def loss(q, k, v, dtype):
        given = (a.astype(dtype) for a in (q, k, v))
        return (attend(*given) * weight.astype(dtype)).astype(jnp.float32).sum()

    assert ("fmha" in jax.jit(attend).lower(q, k, v).as_text()) == (tokens % 2 == 0)
    near = np.linalg.norm(np.asarray(attend(q, k, v), np.float64) - exact(q, k, v))
    assert near < 1e-2 * np.linalg.norm(exact(q, k, v))
    found, plain = (
        jax.grad(lambda *qkv, d=d: loss(*qkv, d), argnums=(0, 1, 2))(q, k, v)
        for d in (jnp.bfloat16, jnp.float32)
    )
    for a, b in zip(found, plain, strict=True):
        a, b = (np.asarray(g, np.float64) for g in (a, b))
        assert np.linalg.norm(a - b) < 2e-2 * np.linalg.norm(b)


@pytest.mark.slow
def test_rematerialised_blocks_give_the_same_and_keep_less():
    gradients, kept = {}, {}
    for remat in (False, True):
        model = UNet(**TINY, dropout=0.5, remat=remat)
        params = noisy_params(model, IMAGES, TIMES)

        def loss(params, model=model):
            rngs = {"dropout": jax.random.key(3)}
            return (model.apply(params, IMAGES, TIMES, train=True, rngs=rngs) ** 2).mean()

        gradients[remat] = jax.jit(jax.grad(loss))(params)
        residuals = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
    chex.assert_trees_all_close(gradients[True], gradients[False], rtol=1e-4, atol=1e-5)
    assert kept[True] < 0.6 * kept[False]


def test_bfloat16_computes_with_float32_parameters_and_output(monkeypatch, tiny):
    _, params, apply = tiny
    half = UNet(**TINY, dtype="bfloat16")
    chex.assert_trees_all_equal_shapes_and_dtypes(params, noisy_params(half, IMAGES, TIMES))
    out, full = jax.jit(half.apply)(params, IMAGES, TIMES), apply(params, IMAGES, TIMES)
    assert out.dtype == full.dtype == jnp.float32
    difference = jnp.abs(out - full).max() / jnp.abs(full).max()
    assert 1e-4 < difference < 5e-2
    # A CPU computes convolutions in 32 bits all the same; an accelerator does not.
    monkeypatch.setattr(jax, "default_backend", lambda: "gpu")
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(compute_capability="7.5")])
    traced = jax.jit(half.apply).trace(params, IMAGES, TIMES)
    text = traced.lower(lowering_platforms=("cuda",)).as_text()
    outputs = re.findall(r"stablehlo.convolution.*-> tensor<[\dx]+x(\w+)>", text)
    assert len(outputs) > 10
    assert set(outputs) == {"bf16"}
    # Only the logits of the four attentions are summed in float32.
    assert len(re.findall(r"stablehlo.dot_general.*-> tensor<[\dx]+xf32>", text)) == 4


def test_fourier_frequencies_are_random_and_not_learned():
    model = UNet(**SKIPS)
    times = jnp.array([0.5, 1.0, 20.0])
    start = FourierFeatures(32).init(jax.random.key(0), times)
    assert np.std(start["params"]["weight"]) > 5
    params = noisy_params(model, IMAGES, times)
    grads = jax.jit(jax.grad(lambda p: model.apply(p, IMAGES, times).sum()))(params)["params"]
    np.testing.assert_array_equal(grads["time_proj"]["weight"], 0)
    assert jnp.abs(grads["time_embedding"]["linear_1"]["kernel"]).max() > 0


def test_samples_do_not_touch_each_other(tiny):
    _, params, apply = tiny
    together = apply(params, IMAGES, TIMES)
    alone = jnp.concatenate([apply(params, IMAGES[i : i + 1], TIMES[i : i + 1]) for i in range(3)])
    np.testing.assert_allclose(together, alone, atol=1e-5)
    assert jnp.abs(together[0] - together[1]).max() > 0.01


def test_one_time_for_all_is_that_time_for_each(tiny):
    _, params, apply = tiny
    one = apply(params, IMAGES, jnp.float32(7.5))
    np.testing.assert_allclose(one, apply(params, IMAGES, jnp.full(3, 7.5)), atol=1e-5)
    assert jnp.abs(one - apply(params, IMAGES, jnp.float32(8))).max() > 1e-3


@pytest.mark.parametrize(
    ("options", "first", "second"),
    [
        ({"num_class_embeds": 4}, jnp.array([0, 1, 2]), jnp.array([0, 3, 2])),
        ({"class_embed_type": "timestep"}, jnp.array([0, 1, 2]), jnp.array([0, 30, 2])),
        ({"class_embed_type": "identity"}, jnp.zeros((3, 32)), jnp.zeros((3, 32)).at[1].set(1)),
    ],
    ids=["table", "timestep", "identity"],
)
def test_class_changes_the_output_of_its_own_sample(options, first, second):
    model = UNet(**TINY, **options)
    params = noisy_params(model, IMAGES, TIMES, first)
    apply = jax.jit(model.apply)
    change = jnp.abs(apply(params, IMAGES, TIMES, first) - apply(params, IMAGES, TIMES, second))
    assert change[1].max() > 1e-3
    np.testing.assert_array_equal(change[jnp.array([0, 2])], 0)


def test_classes_start_apart_as_in_torch():
    """torch.nn.Embedding starts as N(0, 1); weaker ones are learnt late, seen from samples."""
    model = UNet(**TINY, num_class_embeds=200)
    args = jnp.zeros((1, 8, 8, 3)), jnp.zeros(1), jnp.zeros(1, jnp.int32)
    table = jax.jit(model.init)(jax.random.key(0), *args)["params"]["class_embedding"]["embedding"]
    assert table.shape == (200, 32)
    assert float(table.std()) == pytest.approx(1, abs=0.05)


def test_a_class_that_is_not_there_gives_nan():
    model = UNet(**TINY, num_class_embeds=3)
    labels = jnp.array([2, 3, -1])
    params = noisy_params(model, IMAGES, TIMES, labels)
    out = jax.jit(model.apply)(params, IMAGES, TIMES, labels)
    np.testing.assert_array_equal(jnp.isnan(out).all((1, 2, 3)), [False, True, True])


def test_dropout_only_in_training(tiny):
    _, params, apply = tiny
    model = UNet(**TINY, dropout=0.5)
    np.testing.assert_array_equal(
        jax.jit(model.apply)(params, IMAGES, TIMES), apply(params, IMAGES, TIMES)
    )
    train = jax.jit(lambda k: model.apply(params, IMAGES, TIMES, train=True, rngs={"dropout": k}))
    first, second = train(jax.random.key(0)), train(jax.random.key(1))
    assert jnp.abs(first - second).max() > 0.01
    np.testing.assert_array_equal(first, train(jax.random.key(0)))


def test_a_spec_builds_the_model():
    text = ", ".join(f"{name}={value!r}" for name, value in TINY.items())
    assert spec.build(f"unet({text})", models) == UNet(**TINY)
    assert spec.build("unet", models) == UNet()


REFUSED = [
    ({"down_block_types": ("KDownBlock2D", "DownBlock2D")}, "down_block_types 'KDownBlock2D'"),
    ({"up_block_types": ("UpBlock2D", "CrossAttnUpBlock2D")}, "'CrossAttnUpBlock2D'"),
    ({"mid_block_type": "UNetMidBlock2DCrossAttn"}, "mid_block_type 'UNetMidBlock2DCrossAttn'"),
    ({"act_fn": "tanh"}, "act_fn 'tanh'.*'silu'"),
    ({"time_embedding_type": "cosine"}, "time_embedding_type 'cosine'.*'fourier'"),
    ({"time_embedding_type": "learned"}, "needs num_train_timesteps"),
    ({"resnet_time_scale_shift": "spatial"}, "resnet_time_scale_shift 'spatial'"),
    ({"class_embed_type": "projection"}, "class_embed_type 'projection'"),
    ({"class_embed_type": "timestep", "num_class_embeds": 3}, "num_class_embeds=3.*no effect"),
    ({"downsample_type": "fir"}, "downsample_type 'fir'"),
    ({"upsample_type": "fir"}, "upsample_type 'fir'"),
    ({"dtype": "int8"}, "dtype 'int8'.*'bfloat16'"),
    ({"downsample_padding": 2}, "downsample_padding=2"),
    ({"dropout": 1.0}, "dropout=1.0"),
    ({"norm_eps": 0.0}, "norm_eps=0.0"),
    ({"layers_per_block": 0}, "layers_per_block=0"),
    ({"in_channels": -1}, "in_channels=-1"),
    ({"block_out_channels": (0, 16)}, "block_out_channels"),
    ({"freq_shift": 4}, "freq_shift=4"),
    ({"block_out_channels": (8, 16, 32)}, "block_out_channels has 3, down_block_types has 2"),
    ({"block_out_channels": (), "down_block_types": (), "up_block_types": ()}, "has 0.*one entry"),
    ({"block_out_channels": (8, 18)}, "normalise 18 channels in 4 groups"),
    ({"attn_norm_num_groups": 3}, "UNetMidBlock2D would normalise 16 channels in 3 groups"),
    ({"norm_num_groups": None}, "norm_num_groups=None.*DownBlock2D needs a number"),
    ({"attention_head_dim": 12}, "attention_head_dim=12.*16 channels"),
    ({"sample_size": 7}, "sample_size=7.*multiple of 2"),
    ({"sample_size": (8, 7)}, "multiple of 2"),
    ({"down_block_types": ("DownBlock2D", "SkipDownBlock2D"), "in_channels": 1}, "in_channels=1"),
    ({"up_block_types": ("SkipUpBlock2D", "UpBlock2D")}, "Skip blocks come after others"),
    ({"up_block_types": ("UpBlock2D", "SkipUpBlock2D"), "out_channels": 1}, "out_channels=1"),
    (
        {
            "block_out_channels": (8, 8, 8),
            "down_block_types": ("DownBlock2D", "SkipDownBlock2D", "DownBlock2D"),
            "up_block_types": ("UpBlock2D",) * 3,
        },
        "Skip blocks come before others",
    ),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refused_when_built(options, message):
    with pytest.raises(UserError, match=message) as caught:
        UNet(**{**TINY, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "images", "labels", "message"),
    [
        ({}, (2, 9, 8, 3), None, "9x8.*multiples of 2"),
        ({}, (2, 8, 8, 1), None, "1 channels.*set in_channels=1"),
        ({}, (2, 8, 8, 3), (2,), "takes no condition"),
        ({"num_class_embeds": 4}, (2, 8, 8, 3), None, "give cond"),
        ({"num_class_embeds": 4}, (2, 8, 8, 3), (2, 32), r"takes \(2,\)"),
        ({"class_embed_type": "identity"}, (2, 8, 8, 3), (2,), r"takes \(2, 32\)"),
    ],
)
def test_refused_when_applied(options, images, labels, message):
    labels = None if labels is None else jax.ShapeDtypeStruct(labels, jnp.float32)
    with pytest.raises(UserError, match=message):
        shapes(UNet(**{**TINY, **options}), images, labels)


def test_group_norm_far_from_zero():
    """Mean 50 and deviation 3 in float32: a variance as E[x²]-E[x]² loses 4e-4."""
    x = jnp.asarray(np.random.default_rng(0).normal(50, 3, (2, 16, 16, 8)), jnp.float32)
    groups = np.asarray(x, np.float64).reshape(2, 256, 2, 4)
    mean, var = (getattr(groups, m)((1, 3), keepdims=True) for m in ("mean", "var"))
    expected = ((groups - mean) / np.sqrt(var + 1e-5)).reshape(x.shape)
    norm = GroupNorm(2)
    out = norm.apply(norm.init(jax.random.key(0), x), x)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_attention_is_a_mean_weighted_by_softmax():
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 3, 5, 4)) for i in range(3))
    expected = jax.nn.dot_product_attention(*(a.swapaxes(1, 2) for a in (q, k, v))).swapaxes(1, 2)
    np.testing.assert_allclose(attend(q, k, v), expected, atol=1e-5)
    large = attend(1e3 * q, k, v)  # exp of such logits would overflow
    chex.assert_tree_all_finite(large)


@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_some_queries_after_the_others(monkeypatch, masked):
    """Five queries, two at a time: what is kept of logits is no more than is allowed."""
    q, k, v = (jax.random.normal(jax.random.key(i), (2, 3, n, 4)) for i, n in enumerate((5, 7, 7)))
    mask = jnp.arange(7) < jnp.asarray([[7], [3]]) if masked else None
    bias = None if mask is None else mask[:, None, None]
    given = (a.swapaxes(1, 2) for a in (q, k, v))
    expected = jax.nn.dot_product_attention(*given, mask=bias).swapaxes(1, 2)
    monkeypatch.setattr(layers, "MOST_LOGITS", 2 * 3 * 2 * 7)
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=1e-5)
    jaxpr = str(jax.make_jaxpr(lambda *qkv: attend(*qkv, mask))(q, k, v))
    assert "f32[2,3,2,7]" in jaxpr
    assert "f32[2,3,5,7]" not in jaxpr


def test_filters_keep_a_constant_and_are_adjoint():
    ones = jnp.ones((1, 8, 8, 1))
    np.testing.assert_allclose(fir_down(ones)[:, 1:-1, 1:-1], 1, atol=1e-6)
    np.testing.assert_allclose(fir_up(ones)[:, 1:-1, 1:-1], 1, atol=1e-6)
    x, y = IMAGES, jax.random.normal(jax.random.key(3), (3, 4, 4, 3))
    np.testing.assert_allclose(
        jnp.vdot(fir_down(x), y) * 4, jnp.vdot(x, fir_up(y)), rtol=1e-4, atol=1e-4
    )
