"""The course's network: its size in each notebook, what its options do, and what it refuses."""

import functools

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.batch_norm import BatchNorm
from diffjax.models.course_unet import ConvBlock, CourseUNet, Style
from diffjax.models.layers import GroupNorm
from diffjax.models.stateful import STATISTICS, collect

FIRST = {
    "form": "first", "channels": (16, 32, 64), "norm": "batch", "activation": "relu",
    "pooling": "max",
}  # fmt: skip
LARGE = {"in_channels": 3, "out_channels": 3, "channels": (256, 256, 512), "time_scale": 400}
NOTEBOOKS = {
    "01": (CourseUNet(**FIRST, time_embedding="none"), 234_977),
    "02": (CourseUNet(**FIRST, time_embedding="raw", time_scale=150), 240_385),
    "03": (CourseUNet(time_scale=150), 1_979_777),
    "04a": (CourseUNet(time_scale=150, num_class_embeds=10), 2_002_561),
    "04b": (CourseUNet(**LARGE, num_class_embeds=3), 44_509_443),
    "05": (CourseUNet(**LARGE, cond_dim=512), 44_900_355),
}
TINY = CourseUNet(form="first", channels=(4, 4, 8), groups=(2, 2))
KEY = jax.random.key(0)
X = jax.random.normal(jax.random.key(1), (3, 8, 12, 1))
T = jnp.asarray([0.0, 7.0, 149.0])


def given(model, x=X, t=T):
    """What a model is called with."""
    if model.cond_dim is not None:
        cond = jnp.ones((len(x), model.cond_dim))
    else:
        cond = None if model.num_class_embeds is None else jnp.arange(len(x))
    return x, t, cond


def params_of(model):
    """Random weights, without compiling how they would start."""
    rng = np.random.default_rng(0)
    like = jax.eval_shape(model.init, KEY, *given(model))["params"]
    return jax.tree.map(lambda a: jnp.asarray(rng.uniform(0.1, 0.5, a.shape), jnp.float32), like)


def learnt(params):
    """All but the running statistics."""
    return {name: value for name, value in params.items() if name != STATISTICS}


@pytest.mark.parametrize("notebook", NOTEBOOKS)
def test_as_many_parameters_as_the_course(notebook):
    model, count = NOTEBOOKS[notebook]
    size = 16 if model.in_channels == 1 else 32
    images = jnp.zeros((2, size, size, model.in_channels))
    call = functools.partial(model.init_with_output, KEY)
    out, variables = jax.eval_shape(call, *given(model, images, jnp.zeros(2)))
    assert out.shape == images.shape
    sizes = [leaf.size for leaf in jax.tree.leaves(learnt(variables["params"]))]
    assert sum(sizes) == count


# Each value of each option once.
OPTIONS = [
    {"form": "refined", "num_class_embeds": 4, "out_channels": 5},
    {"norm": "batch", "pooling": "max", "upsample": "resize_conv", "time_embedding": "raw"},
    {"norm": "layer", "pooling": "strided", "upsample": "pixel_shuffle", "activation": "silu"},
    {"norm": "instance", "pooling": "average", "upsample": "nearest", "activation": "relu"},
    {"norm": "none", "upsample": "bilinear", "time_embedding": "fourier", "cond_dim": 3},
    {"groups_are": "size", "time_embedding": "none"},
]


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_each_option_is_built(options):
    """What it computes is compared with torch, in tests/parity."""
    model = TINY.clone(**options)
    out, _ = jax.eval_shape(functools.partial(model.init_with_output, KEY), *given(model))
    assert out.shape == (*X.shape[:3], model.out_channels)


def test_each_parameter_has_a_gradient():
    """But for biases that a norm takes away again; running statistics have none."""
    model = TINY.clone(norm="batch", pooling="max", num_class_embeds=4)
    params = params_of(model)

    @jax.jit
    def gradient(params):
        out = lambda params: model.apply({"params": params}, *given(model), train=True)  # noqa: E731
        return jax.grad(lambda params: jnp.sum(out(params) ** 2))(params)

    for path, found in jax.tree_util.tree_leaves_with_path(gradient(params)):
        name = jax.tree_util.keystr(path, simple=True, separator="/")
        assert np.isfinite(found).all(), name
        if name.startswith(STATISTICS):
            assert not found.any(), name
        elif not name.endswith("conv/bias"):
            assert found.any(), name


@pytest.mark.parametrize(
    ("norm", "groups_are", "axes"),
    [
        ("layer", "number", [(1, 2, 3)]),
        ("instance", "number", [(1, 2)]),
        ("batch", "number", [(0, 1, 2)]),
        ("group", "number", [(1, 2, 3)] * 2),
        ("group", "size", [(1, 2, 3)] * 4),
    ],
)
def test_what_a_norm_makes_even(norm, groups_are, axes):
    """Each part of the channels, over those axes, before the activation."""
    block = ConvBlock(8, Style(norm, 2, groups_are, "relu", train=True))
    seen = []

    def watch(call, args, kwargs, context):
        out = call(*args, **kwargs)
        if isinstance(context.module, GroupNorm | BatchNorm) and context.method_name == "__call__":
            seen.extend(zip(*(jnp.split(x, len(axes), -1) for x in (args[0], out)), strict=True))
        return out

    with nn.intercept_methods(watch):
        block.init(KEY, 3 * X + 1)
    for (before, after), over in zip(seen, axes, strict=True):
        one = np.asarray(before, np.float64)
        centred = one - one.mean(over, keepdims=True)
        wanted = centred / np.sqrt((centred**2).mean(over, keepdims=True) + 1e-5)
        np.testing.assert_allclose(after, wanted, atol=1e-5)


def test_batch_norm_within_the_network():
    """Once trained no sample sees another; a call in training tells where its statistics move."""
    model = TINY.clone(norm="batch", time_embedding="none")
    params = params_of(model)
    evaluate = jax.jit(model.apply)

    @jax.jit
    def moved(params):
        with collect() as moved:
            model.apply({"params": params}, X, T)
            assert not moved
            model.apply({"params": params}, X, T, train=True)
        return moved[0].collections[STATISTICS]

    together = evaluate({"params": params}, X, T)
    for i in range(len(X)):
        one = jnp.broadcast_to(X[i], X.shape), jnp.broadcast_to(T[i], T.shape)
        np.testing.assert_allclose(evaluate({"params": params}, *one)[0], together[i], atol=1e-5)
    statistics = moved(params)
    chex.assert_trees_all_equal_shapes_and_dtypes(statistics, params[STATISTICS])
    after = evaluate({"params": {**params, STATISTICS: statistics}}, X, T)
    assert jnp.abs(after - together).max() > 1e-3


def part(model, name, *args):
    """What one of the network's own methods says."""
    return model.apply({"params": {}}, *args, method=name)


def test_no_class_is_zeros_and_others_are_nan():
    numbers = part(TINY.clone(num_class_embeds=4), "_numbers", jnp.asarray([4, 0, 3, -1, 5]))
    np.testing.assert_array_equal(numbers[:3], [[0, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 1]])
    assert np.isnan(numbers[3:]).all()


def test_times_are_embedded_as_the_course_has_them():
    """At the frequencies 1, .046, .002 and .0001 of its index over T; raw, that itself."""
    angles = np.asarray(T)[:, None] / 150 * 10.0 ** (-4 * np.arange(4) / 3)
    features = part(TINY.clone(time_scale=150), "_time_features", T)
    np.testing.assert_allclose(features, np.hstack([np.sin(angles), np.cos(angles)]), atol=1e-6)
    raw = part(TINY.clone(time_scale=150, time_embedding="raw"), "_time_features", T)
    np.testing.assert_allclose(raw, np.asarray(T)[:, None] / 150, rtol=1e-6)
    assert part(TINY.clone(time_embedding="none"), "_time_features", T) is None


def test_spec():
    text = (
        "course_unet(channels=(4, 4, 8), form='first', norm='batch', pooling='max', time_scale=150)"
    )
    model = spec.build(text, diffjax.models)
    assert model == CourseUNet(
        channels=(4, 4, 8), form="first", norm="batch", pooling="max", time_scale=150
    )
    assert spec.render(model) == text


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ("channels=(16,32)", "channels is a tuple"),
        ("channels=(16,32,0)", "channels must be above 0"),
        ("time_scale=0", "time_scale must be above 0"),
        ("num_class_embeds=0", "num_class_embeds must be above 0"),
        ("groups=(8,0)", "groups must be above 0"),
        ("channels=(16,32,64)", "16 channels cannot be cut in groups by 32"),
        ("norm='power'", "norm is a"),
        ("sample_size=30", "multiples of 4"),
        ("sample_size=(28,30)", "multiples of 4"),
        ("num_class_embeds=3,cond_dim=4", "leave one of them out"),
    ],
)
def test_what_cannot_be_built(options, message):
    with pytest.raises(UserError, match=message):
        spec.build(f"course_unet({options})", diffjax.models)


@pytest.mark.parametrize(
    ("options", "call", "message"),
    [
        ({}, (jnp.zeros((1, 28, 30, 1)), T[:1]), "28x30"),
        ({}, (jnp.zeros((1, 8, 8, 3)), T[:1]), "in_channels=3"),
        ({}, (X,), "time_embedding='none'"),
        ({}, (X, T, jnp.zeros(3, jnp.int32)), "knows no condition"),
        ({"num_class_embeds": 4}, (X, T), "give cond"),
        ({"num_class_embeds": 4}, (X, T, jnp.ones((3, 5))), r"takes \(3, 4\) or \(3,\)"),
        ({"cond_dim": 4}, (X, T, jnp.zeros(3, jnp.int32)), r"takes \(3, 4\)"),
    ],
)
def test_what_does_not_fit(options, call, message):
    model = TINY.clone(**options)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(functools.partial(model.init, KEY), *call)
