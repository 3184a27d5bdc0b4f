"""The conditional U-Net: its size, what it is told, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from stable_diffusion import SIZES

from diffjax import models, spec
from diffjax.conditions.tokens import Sequences, Tokens
from diffjax.errors import UserError
from diffjax.models.layers import attend
from diffjax.models.spatial_transformer import Widening
from diffjax.models.unet_condition import ConditionalUNet

TINY = {
    "block_out_channels": (8, 16),
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
    "mid_block_type": None,
    "layers_per_block": 1,
    "norm_num_groups": 4,
    "cross_attention_dim": 6,
    "attention_head_dim": 4,
}
ONE = {
    **TINY,
    "block_out_channels": (8,),
    "down_block_types": ("CrossAttnDownBlock2D",),
    "up_block_types": ("UpBlock2D",),
}
TEXT_TIME = {
    "addition_embed_type": "text_time",
    "addition_time_embed_dim": 4,
    "projection_class_embeddings_input_dim": 11,
}
LATENTS = jax.random.normal(jax.random.key(1), (3, 4, 4, 4))
TIMES = jnp.array([0.0, 10.0, 999.0])
TOKENS = jax.random.normal(jax.random.key(2), (3, 5, 6))
MASK = jnp.array([[True] * 5, [True, True, False, True, False], [True] + [False] * 4])


def noisy_params(model, *args):
    """Parameters away from what they start as: then the last layer is all zeros."""
    rng = np.random.default_rng(0)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *args)
    return jax.tree.map(lambda p: jnp.asarray(rng.normal(0, 0.3, p.shape), p.dtype), shapes)


def shapes(model, cond, latents=(2, 8, 4, 4)):
    x, t = jax.ShapeDtypeStruct(latents, jnp.float32), jax.ShapeDtypeStruct((), jnp.float32)
    params = jax.eval_shape(model.init, jax.random.key(0), x, t, cond)
    return params, jax.eval_shape(model.apply, params, x, t, cond)


def zeros_of(**forms):
    return {name: jax.ShapeDtypeStruct(form, jnp.float32) for name, form in forms.items()}


@pytest.fixture(scope="module")
def tiny():
    model = ConditionalUNet(**ONE)
    params = noisy_params(model, LATENTS, TIMES, {"tokens": TOKENS})
    return model, params, jax.jit(model.apply)


@pytest.mark.parametrize("name", ["sd15", "sdxl"])
def test_published_networks_have_their_parameters(name):
    options, parameters, tensors = SIZES[name]
    width = options["cross_attention_dim"]
    cond = zeros_of(tokens=(1, 77, width))
    if name == "sdxl":
        cond |= zeros_of(text_embeds=(1, 1280), time_ids=(1, 6))
    model = ConditionalUNet(**options)
    params = jax.eval_shape(
        model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 4)), jnp.zeros(()), cond
    )
    assert sum(p.size for p in jax.tree.leaves(params)) == parameters
    assert len(jax.tree.leaves(params)) == tensors


@pytest.mark.parametrize(
    ("options", "cond"),
    [
        ({"mid_block_type": "UNetMidBlock2DCrossAttn", "use_linear_projection": True}, {}),
        ({"transformer_layers_per_block": (1, 3), "layers_per_block": (2, 1)}, {}),
        ({"only_cross_attention": True, "class_embed_type": "timestep"}, {"class_labels": (2,)}),
        ({"class_embed_type": "identity"}, {"class_labels": (2, 32)}),
        (TEXT_TIME, {"text_embeds": (2, 3), "time_ids": (2, 2), "mask": (2, 9)}),
    ],
    ids=lambda o: next(iter(o), None),
)
def test_output_is_of_the_input_size(options, cond):
    cond = zeros_of(tokens=(2, 9, 6), **cond)
    if "mask" in cond:
        cond["mask"] = jax.ShapeDtypeStruct((2, 9), jnp.bool_)
    _, out = shapes(ConditionalUNet(**{**TINY, **options}, out_channels=8), cond)
    chex.assert_shape(out, (2, 8, 4, 8))
    assert out.dtype == jnp.float32


def test_starts_at_zero_and_every_parameter_can_learn(tiny):
    model, noisy, apply = tiny
    start = jax.jit(model.init)(jax.random.key(0), LATENTS, TIMES, {"tokens": TOKENS})
    np.testing.assert_array_equal(apply(start, LATENTS, TIMES, {"tokens": TOKENS}), 0)

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.mean((model.apply(params, LATENTS, TIMES, {"tokens": TOKENS}) - LATENTS) ** 2)

    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(noisy)):
        assert 0 < jnp.abs(grad).max() < jnp.inf, path


def test_tokens_that_are_masked_change_nothing(tiny):
    _, params, apply = tiny
    other = jnp.where(MASK[..., None], TOKENS, 5 * TOKENS + 1)
    out = apply(params, LATENTS, TIMES, {"tokens": TOKENS, "mask": MASK})
    np.testing.assert_array_equal(
        apply(params, LATENTS, TIMES, {"tokens": other, "mask": MASK}), out
    )
    unmasked = apply(params, LATENTS, TIMES, {"tokens": TOKENS})
    changed = jnp.abs(unmasked - out).max((1, 2, 3))
    assert changed[0] < 1e-5
    assert changed[1:].min() > 1e-3


def test_a_run_s_tokens_are_a_condition(tiny):
    model, params, apply = tiny
    out = apply(params, LATENTS, TIMES, {"tokens": TOKENS, "mask": MASK})
    np.testing.assert_array_equal(apply(params, LATENTS, TIMES, Sequences(TOKENS, MASK)), out)
    condition = model.takes(drop=0.1)
    assert condition == Tokens(77, 6, drop=0.1)
    shapes(model, condition.example(2))
    for options in ({"num_class_embeds": 3}, TEXT_TIME):
        with pytest.raises(UserError, match="beside tokens"):
            ConditionalUNet(**TINY, **options).takes()


def test_samples_do_not_touch_each_other(tiny):
    _, params, apply = tiny
    out = apply(params, LATENTS, TIMES, {"tokens": TOKENS})
    other = apply(params, LATENTS, TIMES, {"tokens": TOKENS.at[1].multiply(-3)})
    change = jnp.abs(other - out).max((1, 2, 3))
    assert change[1] > 1e-3
    np.testing.assert_array_equal(change[jnp.array([0, 2])], 0)


def test_masked_attention_is_attention_to_the_rest():
    q, k, v = (jax.random.normal(jax.random.key(i), (1, 2, 5, 4)) for i in range(3))
    mask = jnp.array([[True, False, True, True, False]])
    kept = np.flatnonzero(mask[0])
    expected = attend(q, k[:, :, kept], v[:, :, kept])
    np.testing.assert_allclose(attend(q, k, v, mask), expected, atol=1e-5)


def test_the_gate_is_the_second_half_and_exact():
    """x · Φ(x) with the normal distribution function, not its approximation by a tangent."""
    h = jnp.array([[[3.0, 1.0]]])
    kernel = jnp.array([[1.0, 0.0], [0.0, 1.0]])
    params = {"proj": {"kernel": kernel, "bias": jnp.zeros(2)}}
    found = Widening(1, "geglu", "float32").apply({"params": params}, h)
    np.testing.assert_allclose(found, 3 * 0.8413447461, rtol=1e-6)


def test_a_spec_builds_the_model():
    text = ", ".join(f"{name}={value!r}" for name, value in TINY.items())
    assert spec.build(f"unet_condition({text})", models) == ConditionalUNet(**TINY)
    assert spec.build("unet_condition", models) == ConditionalUNet()


REFUSED = [
    ({"down_block_types": ("SimpleCrossAttnDownBlock2D",) * 2}, "'SimpleCrossAttnDownBlock2D'"),
    ({"up_block_types": ("AttnUpBlock2D", "UpBlock2D")}, "up_block_types 'AttnUpBlock2D'"),
    ({"mid_block_type": "UNetMidBlock2DSimpleCrossAttn"}, "mid_block_type 'UNetMid"),
    ({"class_embed_type": "simple_projection"}, "class_embed_type 'simple_projection'"),
    ({"addition_embed_type": "image"}, "addition_embed_type 'image'"),
    ({"act_fn": "tanh"}, "unet_condition has no act_fn 'tanh'"),
    ({"attention_head_dim": 3}, "number of heads.* divide the 16 channels of CrossAttnDown"),
    ({"attention_head_dim": (4, 4, 4)}, "attention_head_dim=.*3 entries.*2 levels"),
    ({"only_cross_attention": (True,)}, "only_cross_attention=.*1 entries"),
    ({"layers_per_block": (1, 0)}, r"layers_per_block=\(1, 0\)"),
    ({"transformer_layers_per_block": (1, (0,))}, "give reverse_transformer"),
    (
        {
            "transformer_layers_per_block": (1, (1,)),
            "reverse_transformer_layers_per_block": ((1,), 1),
        },
        r"CrossAttnUpBlock2D has 2 transformers.*\(1,\)",
    ),
    (
        {
            "cross_attention_dim": (6, 7),
            "down_block_types": ("CrossAttnDownBlock2D",) * 2,
        },
        r"cross_attention_dim=\(6, 7\).*one width",
    ),
    (
        {"down_block_types": ("DownBlock2D",) * 2, "up_block_types": ("UpBlock2D",) * 2},
        "no block attends to tokens",
    ),
    ({"class_embed_type": "timestep", "num_class_embeds": 3}, "num_class_embeds=3.*no effect"),
    ({"class_embed_type": "projection"}, "needs projection_class_embeddings_input_dim"),
    ({"addition_embed_type": "text_time"}, "needs projection_class_embeddings_input_dim"),
    ({**TEXT_TIME, "addition_time_embed_dim": None}, "addition_time_embed_dim=None"),
    ({**TEXT_TIME, "addition_time_embed_dim": 12}, "addition_time_embed_dim=12"),
    ({"norm_num_groups": 3}, "normalise 8 channels in 3 groups"),
    ({"block_out_channels": (8, 16, 32)}, "block_out_channels has 3, down_block_types has 2"),
    ({"sample_size": 7}, "sample_size=7.*multiple of 2"),
    ({"freq_shift": 4}, "freq_shift=4"),
]


@pytest.mark.parametrize(("options", "message"), REFUSED, ids=[m for _, m in REFUSED])
def test_refused_when_built(options, message):
    with pytest.raises(UserError, match=message) as caught:
        ConditionalUNet(**{**TINY, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "latents", "cond", "message"),
    [
        ({"downsample_padding": 0}, (2, 9, 8, 4), {"tokens": (2, 5, 6)}, "9x8.*multiples of 2"),
        ({}, (2, 8, 8, 3), {"tokens": (2, 5, 6)}, "set in_channels=3"),
        ({}, (2, 8, 8, 4), None, "conditioned on tokens: give cond"),
        ({}, (2, 8, 8, 4), {}, "conditioned on tokens too"),
        ({}, (2, 8, 8, 4), {"tokens": (2, 5, 7)}, r"tokens has shape \(2, 5, 7\).*\(2, 5, 6\)"),
        ({}, (2, 8, 8, 4), {"tokens": (1, 5, 6)}, r"tokens has shape \(1, 5, 6\)"),
        ({}, (2, 8, 8, 4), {"tokens": (2, 6)}, r"tokens has shape \(2, 6\)"),
        ({}, (2, 8, 8, 4), {"tokens": (2, 5, 6), "mask": (2, 4)}, r"mask has shape \(2, 4\)"),
        ({}, (2, 8, 8, 4), {"tokens": (2, 5, 6), "class_labels": (2,)}, "takes mask, tokens"),
        ({"num_class_embeds": 3}, (2, 8, 8, 4), {"tokens": (2, 5, 6)}, "class_labels too"),
        (
            TEXT_TIME,
            (2, 8, 8, 4),
            {"tokens": (2, 5, 6), "text_embeds": (2, 4), "time_ids": (2, 2)},
            r"text_embeds has shape \(2, 4\): this U-Net takes \(2, 3\)",
        ),
    ],
)
def test_refused_when_applied(options, latents, cond, message):
    cond = None if cond is None else zeros_of(**cond)
    with pytest.raises(UserError, match=message):
        shapes(ConditionalUNet(**{**TINY, **options}), cond, latents)
