"""Tiles of a first stage give what the whole image gives, from no more than a tile at a time."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import diffjax as dj
from diffjax import tiling
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.layers import ACTIVATIONS

TINY = {
    "block_out_channels": (4, 8),
    "down_block_types": ("DownEncoderBlock2D", "AttnDownEncoderBlock2D"),
    "up_block_types": ("AttnUpDecoderBlock2D", "UpDecoderBlock2D"),
    "norm_num_groups": 2,
    "latent_channels": 3,
}
ODD = {
    "one level, greyscale": {
        "block_out_channels": (8,), "norm_num_groups": 8, "in_channels": 1, "out_channels": 1,
        "down_block_types": ("DownEncoderBlock2D",), "up_block_types": ("UpDecoderBlock2D",),
        "mid_block_add_attention": False, "use_quant_conv": False, "layers_per_block": 3,
    },
    "squares of pixels": {
        **TINY, "patch_size": 2,
    },
    "three levels, one group": {
        "block_out_channels": (8, 4, 8), "norm_num_groups": 1, "act_fn": "mish",
        "down_block_types": ("DownEncoderBlock2D",) * 3, "use_post_quant_conv": False,
        "up_block_types": ("UpDecoderBlock2D",) * 3,
    },
}  # fmt: skip
TILE = 8


def stage(options, shape):
    """A network of random weights, images whose sides differ, and what it makes of them whole."""
    model, rng = AutoencoderKL(**options), np.random.default_rng(0)
    images = rng.uniform(-1, 1, (*shape, model.in_channels)).astype(np.float32)
    images[:, : shape[1] // 2] += 1  # so that a tile's own statistics would be others
    like = jax.eval_shape(model.init, jax.random.key(0), images)["params"]
    params = jax.tree.map(lambda s: jnp.asarray(rng.normal(0, 0.3, s.shape), s.dtype), like)
    encode, decode = (
        jax.jit(lambda params, x, name=name: model.apply({"params": params}, x, method=name))
        for name in ("encode", "decode")
    )
    moments = encode(params, images)
    return model, params, images, moments, decode(params, moments[0]), decode


@pytest.fixture(scope="module")
def tiny():
    return stage(TINY, (2, 20, 12))


def error(found, wanted):
    """Of the largest value."""
    assert found.shape == wanted.shape
    return np.abs(found - np.asarray(wanted)).max() / np.abs(np.asarray(wanted)).max()


def test_tiles_give_what_the_whole_image_gives(tiny):
    model, params, images, moments, decoded, _ = tiny
    found = dj.encode_tiled(model, params, images, tile=TILE)
    assert max(map(error, found, moments)) < 1e-5
    assert error(dj.decode_tiled(model, params, np.asarray(moments[0]), tile=TILE), decoded) < 1e-5


@pytest.mark.slow
def test_tiles_by_themselves_do_not(tiny):
    """What the test above would let pass if norms looked at tiles alone."""
    _, params, _, (mean, _), decoded, decode = tiny
    halves = [decode(params, half) for half in (mean[:, :5], mean[:, 5:])]
    assert error(np.concatenate(halves, axis=1), decoded) > 0.1


def test_no_more_than_a_tile_is_computed_at_a_time(tiny, monkeypatch):
    model, params, images, (mean, _), *_ = tiny
    compute, attend, cut, asked = tiling._compute, tiling._attend, [], []

    def computing(layer, activation, reach, params, x, *args):
        cut.append(x.shape)
        return compute(layer, activation, reach, params, x, *args)

    def attending(output, params, q, k, v):
        asked.append((len(q), len(k)))
        return attend(output, params, q, k, v)

    monkeypatch.setattr(tiling, "_compute", computing)
    monkeypatch.setattr(tiling, "_attend", attending)
    dj.encode_tiled(model, params, images[:1], tile=TILE)
    dj.decode_tiled(model, params, mean[:1], tile=TILE)
    assert max(max(shape[:2]) for shape in cut) == TILE + 2
    assert {keys for _, keys in asked} == {10 * 6}
    assert {queries for queries, _ in asked} == {TILE * TILE * 8 // 60}


@pytest.mark.slow
@pytest.mark.parametrize("options", ODD.values(), ids=ODD)
@pytest.mark.parametrize("tile", [2, 10, 64])
def test_other_networks_and_tiles(options, tile):
    model, params, images, moments, decoded, _ = stage(options, (1, 28, 36))
    assert max(map(error, dj.encode_tiled(model, params, images, tile), moments)) < 1e-5
    assert error(dj.decode_tiled(model, params, moments[0], tile), decoded) < 1e-5


@pytest.mark.slow
def test_of_16_bits_they_are_as_close_as_the_whole_image_is(tiny):
    model, params, _, (mean, _), decoded, _ = tiny
    found = dj.decode_tiled(model.clone(dtype="bfloat16"), params, mean[:1], tile=TILE)
    assert found.dtype == np.float32
    assert 1e-5 < error(found, decoded[:1]) < 0.05


@given(st.integers(1, 9), st.integers(1, 9), st.sampled_from([0.0, 1e4]), st.integers(0, 99))
def test_statistics_are_those_of_the_whole_map(height, width, offset, seed):
    """Group normalisation by its definition in float64 (Wu & He 2018, eq. 1)."""
    layers = tiling.Layers(2, 3, ACTIVATIONS["relu"], "float32")
    x = np.random.default_rng(seed).normal(offset, 1, (height, width, 6)).astype(np.float32)
    params = {"scale": np.arange(1.0, 7.0), "bias": jnp.zeros(6)}
    groups = x.astype(np.float64).reshape(-1, 3, 2)
    deviation = np.sqrt(groups.var((0, 2)) + 1e-6)
    norm = layers.norm(params, x)
    np.testing.assert_allclose(norm.mean, groups.mean((0, 2)).repeat(2), rtol=1e-6, atol=1e-7)
    np.testing.assert_allclose(norm.scale, np.arange(1, 7) / deviation.repeat(2), rtol=1e-6)


@given(st.integers(1, 500), st.integers(1, 100).map(lambda n: 2 * n))
def test_a_side_is_cut_into_as_few_tiles_as_can_be(pixels, most):
    share = tiling._share(pixels, most)
    assert share <= most
    assert share % 2 == 0 or share == pixels
    assert -(-pixels // share) == -(-pixels // most)


@given(st.data(), st.integers(1, 6), st.integers(1, 6))
def test_a_tile_is_nought_beyond_the_map(data, height, width):
    corner = tuple(data.draw(st.integers(-2, side - 1)) for side in (height, width))
    size = tuple(data.draw(st.integers(3, 8)) for _ in range(2))
    x = np.random.default_rng(0).normal(size=(height, width, 2)).astype(np.float32)
    around = np.pad(x, ((2, 8), (2, 8), (0, 0)))
    rows, columns = (slice(at + 2, at + 2 + n) for at, n in zip(corner, size, strict=True))
    np.testing.assert_array_equal(tiling._cut(x, corner, size), around[rows, columns])


@pytest.mark.parametrize("tile", [0, -2, 7])
def test_tiles_that_cannot_be(tiny, tile):
    model, params, images, (mean, _), *_ = tiny
    with pytest.raises(dj.UserError, match=f"tile={tile}: choose an even number"):
        dj.encode_tiled(model, params, images, tile)
    with pytest.raises(dj.UserError, match=f"tile={tile}: choose an even number"):
        dj.decode_tiled(model, params, mean, tile)


def test_images_that_do_not_fit(tiny):
    model, params, images, (mean, _), *_ = tiny
    with pytest.raises(dj.UserError, match=r"20x11.*multiples of 2"):
        dj.encode_tiled(model, params, images[:, :, :-1])
    with pytest.raises(dj.UserError, match="set latent_channels=2"):
        dj.decode_tiled(model, params, mean[..., :2])
