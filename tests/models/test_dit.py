"""The diffusion transformer: its start, its patches and positions, classes, and what it refuses."""

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from diffjax import models, spec
from diffjax.conditions.label import Label
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.models.dit import Block, DiT, PatchEmbed, positions, unpatchify

TINY = {
    "num_attention_heads": 2,
    "attention_head_dim": 4,
    "num_layers": 2,
    "in_channels": 1,
    "sample_size": (8, 4),
    "num_embeds_ada_norm": 3,
}
IMAGES = jax.random.normal(jax.random.key(1), (3, 8, 4, 1))
TIMES = jnp.array([0.0, 10.0, 999.0])
LABELS = jnp.array([0, 2, 3])


def shapes_of(model, images=IMAGES, labels=LABELS):
    labels = None if model.num_embeds_ada_norm is None else labels
    return jax.eval_shape(model.init, jax.random.key(0), images, TIMES[0], labels)


def noisy_params(model):
    """Parameters away from what they start as: then the network is all zeros."""
    rng = np.random.default_rng(0)
    return jax.tree.map(
        lambda p: jnp.asarray(rng.normal(0, 0.3, p.shape), p.dtype), shapes_of(model)
    )


@pytest.fixture(scope="module")
def tiny():
    model = DiT(**TINY)
    return model, noisy_params(model), jax.jit(model.apply)


def test_dit_xl_2_has_as_many_parameters_as_the_published_model():
    model = DiT(out_channels=8)
    latents, labels = jax.ShapeDtypeStruct((1, 32, 32, 4), jnp.float32), LABELS[:1]
    out, params = jax.eval_shape(
        model.init_with_output, jax.random.key(0), latents, TIMES[:1], labels
    )
    assert sum(p.size for p in jax.tree.leaves(params)) == 749_826_464
    assert (out.shape, out.dtype) == ((1, 32, 32, 8), jnp.float32)


def test_starts_at_zero_with_blocks_that_change_nothing(tiny):
    """adaLN-zero (Peebles & Xie 2023, sec. 3.2)."""
    model, _, apply = tiny
    start = jax.jit(model.init)(jax.random.key(0), IMAGES, TIMES, LABELS)
    np.testing.assert_array_equal(apply(start, IMAGES, TIMES, LABELS), 0)
    tokens = jax.random.normal(jax.random.key(2), (3, 8, 8))
    block = Block(4, True, "gelu-approximate", 3, False, 1e-5, 0.0, False, "float32")
    for i in range(2):
        weights = {"params": start["params"][f"transformer_blocks_{i}"]}
        out, emb = jax.jit(block.apply)(weights, tokens, TIMES, LABELS)
        np.testing.assert_array_equal(out, tokens)
        assert jnp.abs(emb[0] - emb[1]).max() > 0.1


def test_every_parameter_can_learn(tiny):
    model, noisy, _ = tiny

    @jax.jit
    @jax.grad
    def gradient(params):
        return jnp.mean((model.apply(params, IMAGES, TIMES, LABELS) - IMAGES) ** 2)

    for path, grad in jax.tree_util.tree_leaves_with_path(gradient(noisy)):
        assert np.isfinite(grad).all()
        # A bias on all keys adds the same to all logits, which softmax takes out again.
        if "'to_k']['bias" not in jax.tree_util.keystr(path):
            assert jnp.abs(grad).max() > 0, path


@pytest.mark.parametrize("size", [1, 4])
def test_patches_are_put_back_where_they_were(size):
    """With the identity for its dense layer, the embedding is the patch's own numbers."""
    x = jax.random.normal(jax.random.key(0), (2, 8, 12, 3))
    width = size * size * 3
    kernel = jnp.eye(width).reshape(size, size, 3, width)
    params = {"params": {"proj": {"kernel": kernel, "bias": jnp.zeros(width)}}}
    tokens = PatchEmbed(size, width, None, "float32").apply(params, x)
    assert tokens.shape == (2, 8 * 12 // size**2, width)
    first = x[:, :size, size : 2 * size].reshape(2, -1)
    np.testing.assert_allclose(tokens[:, 1], first, atol=1e-6)
    np.testing.assert_allclose(unpatchify(tokens, 8 // size, size), x, atol=1e-6)


def test_a_bottleneck_is_a_product_of_two_layers():
    x = np.random.default_rng(0).normal(size=(2, 8, 4, 3))
    embed = PatchEmbed(4, 10, 2, "float32")
    params = embed.init(jax.random.key(0), jnp.asarray(x, jnp.float32))["params"]
    assert jax.tree.map(jnp.shape, params) == {
        "bottleneck": {"kernel": (4, 4, 3, 2)},
        "proj": {"kernel": (1, 1, 2, 10), "bias": (10,)},
    }
    down, up = (np.asarray(params[name]["kernel"], np.float64) for name in ("bottleneck", "proj"))
    whole = down.reshape(48, 2) @ up.reshape(2, 10)
    patches = np.stack([x[:, :4].reshape(2, 48), x[:, 4:].reshape(2, 48)], axis=1)
    found = embed.apply({"params": params}, jnp.asarray(x, jnp.float32))
    np.testing.assert_allclose(found, patches @ whole, atol=1e-5)


@given(st.integers(1, 6), st.integers(1, 6), st.integers(1, 5), st.floats(0.5, 3))
def test_positions_are_their_formula(rows, columns, quarter, stretch):
    """sin and cos of the column, then of the row, over 10000^(k/quarter), patch by patch."""
    base = (round(stretch * rows), 2 * columns)
    table = positions(rows, columns, base, 4 * quarter)
    assert table.shape == (rows * columns, 4 * quarter)
    for row in range(rows):
        for column in range(columns):
            where = (column * 2.0, row * base[0] / rows)
            wanted = [
                wave(place / 10000 ** (k / quarter))
                for place in where
                for wave in (np.sin, np.cos)
                for k in range(quarter)
            ]
            np.testing.assert_allclose(table[row * columns + column], wanted, atol=1e-12)


def test_patches_are_told_apart_by_their_positions_alone(tiny):
    """Equal patches in equal places give equal outputs; in other places they do not."""
    model, params, apply = tiny
    blank = apply(params, jnp.ones((3, 8, 4, 1)), TIMES, LABELS)
    corner = blank[:, :2, :2]
    for row in range(0, 8, 2):
        for column in range(0, 4, 2):
            patch = blank[:, row : row + 2, column : column + 2]
            same = row == column == 0
            assert (jnp.abs(patch - corner).max() < 1e-3) == same, (row, column)
    assert model.base == (4, 2)


def test_samples_do_not_touch_each_other(tiny):
    _, params, apply = tiny
    together = apply(params, IMAGES, TIMES, LABELS)
    other = apply(params, IMAGES.at[1].add(1), TIMES.at[1].add(1), LABELS.at[1].set(0))
    np.testing.assert_allclose(together[::2], other[::2], atol=1e-5)
    assert jnp.abs(together[1] - other[1]).max() > 0.01


def test_one_time_for_all_is_that_time_for_each(tiny):
    _, params, apply = tiny
    one = apply(params, IMAGES, jnp.float32(7.5), LABELS)
    np.testing.assert_allclose(one, apply(params, IMAGES, jnp.full(3, 7.5), LABELS), atol=1e-5)
    assert jnp.abs(one - apply(params, IMAGES, jnp.float32(8), LABELS)).max() > 1e-3


def test_the_null_class_is_the_row_after_the_last(tiny):
    """It is always there, so the network's size does not depend on how often classes are hidden."""
    model, params, apply = tiny
    condition = model.takes(drop=0.1)
    assert condition == Label(3, drop=0.1)
    assert model.conditioned_on(condition) == model
    null = apply(params, IMAGES, TIMES, condition.null(LABELS))
    for i in range(2):
        table = params["params"][f"transformer_blocks_{i}"]["norm1"]["emb"]["class_embedder"]
        assert table["embedding_table"]["embedding"].shape == (4, 8)
    np.testing.assert_array_equal(null[2], apply(params, IMAGES, TIMES, LABELS)[2])
    assert jnp.abs(null - apply(params, IMAGES, TIMES, LABELS)).max((1, 2, 3))[:2].min() > 1e-3
    outside = apply(params, IMAGES, TIMES, jnp.array([4, -1, 0]))
    np.testing.assert_array_equal(jnp.isnan(outside).all((1, 2, 3)), [True, True, False])


def test_without_classes_there_is_no_table():
    model = DiT(**{**TINY, "num_embeds_ada_norm": None})
    assert model.takes() == Unconditional()
    with pytest.raises(UserError, match="takes none"):
        model.takes(drop=0.1)
    params = shapes_of(model)
    emb = params["params"]["transformer_blocks_0"]["norm1"]["emb"]
    assert emb.keys() == {"timestep_embedder"}
    chex.assert_shape(jax.eval_shape(model.apply, params, IMAGES, TIMES), IMAGES.shape)


def test_rematerialised_blocks_give_the_same_and_keep_less():
    gradients, kept = {}, {}
    for remat in (False, True):
        model = DiT(**{**TINY, "num_layers": 1}, dropout=0.5, remat=remat)
        params = noisy_params(model)

        def loss(params, model=model):
            rngs = {"dropout": jax.random.key(3)}
            out = model.apply(params, IMAGES, TIMES, LABELS, train=True, rngs=rngs)
            return (out**2).mean()

        gradients[remat] = jax.jit(jax.grad(loss))(params)
        residuals = jax.eval_shape(lambda p, loss=loss: jax.vjp(loss, p)[1], params)
        kept[remat] = sum(leaf.size for leaf in jax.tree.leaves(residuals))
    chex.assert_trees_all_close(gradients[True], gradients[False], rtol=1e-4, atol=1e-5)
    weights = sum(leaf.size for leaf in jax.tree.leaves(params))
    assert kept[True] - weights < 0.3 * (kept[False] - weights)


def test_bfloat16_computes_with_float32_parameters_and_output(tiny):
    _, params, apply = tiny
    half = DiT(**TINY, dtype="bfloat16")
    chex.assert_trees_all_equal_shapes_and_dtypes(params, shapes_of(half))
    out, full = (f(params, IMAGES, TIMES, LABELS) for f in (jax.jit(half.apply), apply))
    assert out.dtype == full.dtype == jnp.float32
    assert 1e-4 < jnp.abs(out - full).max() / jnp.abs(full).max() < 5e-2


def test_dropout_only_in_training(tiny):
    _, params, apply = tiny
    model = DiT(**TINY, dropout=0.5)
    same = jax.jit(model.apply)(params, IMAGES, TIMES, LABELS)
    np.testing.assert_array_equal(same, apply(params, IMAGES, TIMES, LABELS))

    @jax.jit
    def train(key):
        return model.apply(params, IMAGES, TIMES, LABELS, train=True, rngs={"dropout": key})

    assert jnp.abs(train(jax.random.key(0)) - train(jax.random.key(1))).max() > 0.01


def test_a_spec_builds_the_model():
    text = ", ".join(f"{name}={value!r}" for name, value in TINY.items())
    assert spec.build(f"dit({text})", models) == DiT(**TINY)
    jit = DiT(**{**TINY, "num_embeds_ada_norm": None, "bottleneck_dim": 2})
    assert spec.build(spec.render(jit), models) == jit


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"activation_fn": "relu"}, "activation_fn 'relu'.*'gelu-approximate'"),
        ({"dtype": "int8"}, "dtype 'int8'.*'bfloat16'"),
        ({"num_layers": 0}, "num_layers=0"),
        ({"bottleneck_dim": 0}, "bottleneck_dim=0"),
        ({"sample_size": (8, 0)}, r"sample_size=\(8, 0\)"),
        ({"dropout": 1.0}, "dropout=1.0"),
        ({"num_attention_heads": 3, "attention_head_dim": 2}, "a token of 6 numbers"),
        ({"sample_size": 7}, "patch_size=2.*7x7"),
    ],
)
def test_refused_when_built(options, message):
    with pytest.raises(UserError, match=message) as caught:
        DiT(**{**TINY, **options})
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("options", "images", "labels", "message"),
    [
        ({}, (2, 9, 8, 1), (2,), "9x8.*multiples of 2"),
        ({}, (2, 8, 8, 3), (2,), "3 channels.*set in_channels=3"),
        ({}, (2, 8, 8, 1), None, "give cond"),
        ({}, (2, 8, 8, 1), (2, 3), r"takes \(2,\)"),
        ({"num_embeds_ada_norm": None}, (2, 8, 8, 1), (2,), "takes no condition"),
    ],
)
def test_refused_when_applied(options, images, labels, message):
    model, x = DiT(**{**TINY, **options}), jax.ShapeDtypeStruct(images, jnp.float32)
    cond = None if labels is None else jax.ShapeDtypeStruct(labels, jnp.int32)
    with pytest.raises(UserError, match=message):
        jax.eval_shape(model.init, jax.random.key(0), x, TIMES[0], cond)
