"""The towers of CLIP and SigLIP, by what their equations say of them."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.clip import CLIP
from diffjax.models.clip_resnet import CLIPResNet, FrozenBatchNorm
from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.models.layers import attend
from diffjax.models.siglip_text import SigLIPText
from diffjax.models.siglip_vision import SigLIPVision

SMALL = {
    "hidden_size": 8, "intermediate_size": 12, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
WORDS = {"vocab_size": 20, "max_position_embeddings": 7}
PIXELS = {"image_size": 8, "patch_size": 4}
RESNET = CLIPResNet((1, 1, 1, 1), 4, 2, 6, 32)
KEY = jax.random.key(0)
IDS = jnp.array([[5, 19, 3, 19, 4], [1, 2, 3, 4, 5], [4, 6, 18, 18, 1]])


def text(**options):
    return CLIPText(**{**SMALL, **WORDS, "eos_token_id": 19, **options})


def random_params(model, *args, method="__call__"):
    """Every parameter random: none at the 0 or 1 where it starts."""
    shapes = jax.eval_shape(lambda: model.init(KEY, *args, method=method))["params"]
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda s: jnp.asarray(rng.uniform(0.2, 1, s.shape) * rng.choice([-1, 1], s.shape), s.dtype),
        shapes,
    )


def apply(model, params, *args, method="__call__"):
    return jax.jit(lambda p, *a: model.apply({"params": p}, *a, method=method))(params, *args)


def count(model, size, length):
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    ids = jax.ShapeDtypeStruct((1, length), jnp.int32)
    shapes = jax.eval_shape(model.init, KEY, images, ids)["params"]
    return sum(leaf.size for leaf in jax.tree.leaves(shapes))


def test_the_published_sizes():
    """Counted by transformers in the parity tests; RN50's has its statistics besides."""
    large = CLIPVision(
        hidden_size=1024, intermediate_size=4096, num_hidden_layers=24, num_attention_heads=16,
        patch_size=14,
    )  # fmt: skip
    wide = CLIPText(hidden_size=768, intermediate_size=3072, num_attention_heads=12)
    assert count(CLIP(CLIPVision(), CLIPText()), 224, 77) == 151_277_313
    assert count(CLIP(large, wide, projection_dim=768), 224, 77) == 427_616_513
    assert count(CLIP(CLIPResNet(), CLIPText(), 1024), 224, 77) == 102_007_137 + 53_248


@pytest.mark.parametrize("causal", [False, True])
def test_attention_is_its_formula(causal):
    rng = np.random.default_rng(0)
    q = rng.normal(size=(2, 3, 5, 4)).astype(np.float32)
    k, v = rng.normal(size=(2, 2, 3, 5, 4)).astype(np.float32)
    expected = np.zeros_like(q)
    for t in range(5):
        past = slice(0, t + 1 if causal else 5)
        weights = np.exp(np.einsum("bnd,bnsd->bns", q[:, :, t], k[:, :, past]) / 2)
        mean = np.einsum("bns,bnsd->bnd", weights, v[:, :, past])
        expected[:, :, t] = mean / weights.sum(-1, keepdims=True)
    found = attend(*map(jnp.asarray, (q, k, v)), causal=causal)
    np.testing.assert_allclose(found, expected, atol=1e-5)


@pytest.mark.parametrize(
    ("tower", "sees_ahead"), [(text(), False), (SigLIPText(**SMALL, **WORDS), True)]
)
def test_only_siglip_sees_ahead(tower, sees_ahead):
    params = random_params(tower, IDS)
    before = apply(tower, params, IDS).last_hidden_state
    after = apply(tower, params, IDS.at[:, 3].set(7)).last_hidden_state
    moved = np.abs(before - after).max((0, 2)) > 1e-6
    np.testing.assert_array_equal(moved, [sees_ahead] * 3 + [True] + [True])


@pytest.mark.parametrize(("eos", "places"), [(19, [1, 0, 0]), (2, [1, 4, 2]), (18, [0, 0, 2])])
def test_where_texts_are_pooled(eos, places):
    """At the first end token, without one at the start; 2 means the first of the highest ids."""
    tower = text(eos_token_id=eos)
    states = apply(tower, random_params(tower, IDS), IDS)
    expected = states.last_hidden_state[jnp.arange(3), jnp.array(places)]
    np.testing.assert_allclose(states.pooled, expected, atol=1e-6)  # rounded once more or less


def test_an_id_that_is_not_there_is_nan():
    model = CLIP(None, text(), 6)
    params = random_params(model, IDS, method="encode_text")
    ids = IDS.at[0, 0].set(-1).at[2, 0].set(20)
    found = apply(model, params, ids, method="encode_text")
    np.testing.assert_array_equal(np.isnan(found).any(1), [True, False, True])


@pytest.mark.parametrize(
    "model",
    [
        CLIP(CLIPVision(**SMALL, **PIXELS), text(), 6),
        CLIP(SigLIPVision(**SMALL, **PIXELS), SigLIPText(**SMALL, **WORDS), None, bias=True),
    ],
    ids=["vit", "siglip"],
)
def test_logits_are_scaled_cosines(model):
    size = model.vision_model.image_size
    images = jax.random.normal(KEY, (2, size, size, 3))
    params = random_params(model, images, IDS)
    a, b = (
        apply(model, params, x, method=method)
        for method, x in (("encode_image", images), ("encode_text", IDS))
    )
    cosines = np.einsum("id,td->it", a, b)
    cosines = cosines / np.linalg.norm(a, axis=1)[:, None] / np.linalg.norm(b, axis=1)
    expected = np.exp(params["logit_scale"]) * cosines + params.get("logit_bias", 0)
    logits = apply(model, params, images, IDS)
    assert logits.shape == (2, 3)
    np.testing.assert_allclose(logits, expected, atol=1e-5)


def test_no_gradient_moves_the_statistics():
    norm = FrozenBatchNorm("float32")
    x = jax.random.normal(KEY, (2, 3, 3, 4))
    params = random_params(norm, x)
    params["var"] = abs(params["var"])
    grads = jax.jit(jax.grad(lambda p: (norm.apply({"params": p}, x) ** 2).sum()))(params)
    moved = {name: bool(grad.any()) for name, grad in grads.items()}
    assert moved == {"scale": True, "bias": True, "mean": False, "var": False}
    scale = params["scale"] / np.sqrt(params["var"] + 1e-5)
    expected = (x - params["mean"]) * scale + params["bias"]
    np.testing.assert_allclose(norm.apply({"params": params}, x), expected, atol=1e-5)


def test_the_resnet_halves_images_five_times():
    images = jax.ShapeDtypeStruct((2, 32, 32, 3), jnp.float32)
    states, _ = jax.eval_shape(lambda x: RESNET.init_with_output(KEY, x), images)
    shapes = [(2, 8, 8, 4), (2, 8, 8, 16), (2, 4, 4, 32), (2, 2, 2, 64), (2, 1, 1, 128)]
    assert [h.shape for h in states.hidden_states] == shapes
    assert states.pooled.shape == (2, 6)


def test_other_precision_stays_near():
    model = CLIP(None, text(), 6)
    params = random_params(model, IDS, method="encode_text")
    exact = apply(model, params, IDS, method="encode_text")
    coarse = CLIP(None, text(dtype="bfloat16"), 6)
    found = apply(coarse, params, IDS, method="encode_text")
    assert found.dtype == jnp.float32
    assert 0 < np.abs(found - exact).max() < 0.1 * np.abs(exact).max()


def test_towers_have_specs():
    for name, cls in (("clip_text", CLIPText), ("siglip_vision", SigLIPVision)):
        tower = spec.build(f"{name}(hidden_size=24, num_attention_heads=3)", diffjax.models)
        assert type(tower) is cls
        assert spec.build(spec.render(tower), diffjax.models) == tower
    assert "clip" not in spec.names(diffjax.models)
    assert diffjax.models.CLIPResNet is CLIPResNet


@pytest.mark.parametrize(
    ("build", "message"),
    [
        (lambda: text(num_attention_heads=3), "does not divide hidden_size=8"),
        (lambda: text(vocab_size=0), r"clip_text\(vocab_size=0\): vocab_size must be above 0"),
        (lambda: text(hidden_act="tanh"), "no hidden_act 'tanh'"),
        (lambda: text(dtype="int8"), "no dtype 'int8'"),
        (lambda: CLIPVision(image_size=4, patch_size=8), "images have image_size=4"),
        (lambda: SigLIPVision(num_channels=0), "num_channels must be above 0"),
        (lambda: SigLIPText(projection_size=0), "embed_dim must be above 0"),
        (lambda: CLIPResNet(image_size=100), "a multiple of 32"),
        (lambda: CLIPResNet(width=3), "choose even"),
        (lambda: CLIPResNet(num_attention_heads=7), "does not divide the last level's 2048"),
        (lambda: CLIPResNet(layers=(1, 0, 1, 1)), "layers must be above 0"),
        (lambda: CLIP(None, None), "neither vision_model nor text_model"),
        (lambda: CLIP(None, text(), 0), "projection_dim must be above 0"),
        (lambda: CLIP(None, text(), 6, bias=True), "has no logits"),
        (lambda: CLIP(RESNET, text(), 7), "embedded in 6 numbers and texts in 7"),
        (lambda: apply(text(), {}, jnp.zeros((1, 8), int)), "takes 1 to 7"),
        (lambda: apply(text(), {}, jnp.zeros((1, 0), int)), "takes 1 to 7"),
        (lambda: apply(RESNET, {}, jnp.zeros((1, 32, 31, 3))), "images are 32 x 31 x 3, and"),
        (
            lambda: apply(CLIP(None, text()), {}, jnp.zeros((1, 8, 8, 3)), method="encode_image"),
            "no image tower",
        ),
        (lambda: apply(CLIP(RESNET, None), {}, IDS, method="text_states"), "no text tower"),
    ],
)
def test_refused(build, message):
    with pytest.raises(UserError, match=message) as caught:
        build()
    assert "\n" not in str(caught.value)


def test_hidden_states_are_the_input_and_each_layer():
    tower = text(num_hidden_layers=3)
    params = random_params(tower, IDS)
    states = apply(tower, params, IDS)
    assert [h.shape for h in states.hidden_states] == [(3, 5, 8)] * 4
    rows = params["embeddings"]["token_embedding"]["embedding"][IDS]
    first = rows + params["embeddings"]["position_embedding"]["embedding"][:5]
    chex.assert_trees_all_close(states.hidden_states[0], first, atol=1e-6)
    norm = params["final_layer_norm"]
    last = states.hidden_states[-1]
    centred = last - last.mean(-1, keepdims=True)
    scaled = centred / np.sqrt((centred**2).mean(-1, keepdims=True) + 1e-5)
    expected = scaled * norm["scale"] + norm["bias"]
    chex.assert_trees_all_close(states.last_hidden_state, expected, atol=1e-5)
