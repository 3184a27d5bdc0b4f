"""Five ways to enlarge: sizes, closed forms, and who depends on whom."""

import einops
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.upsampling import WAYS, Transposed, bilinear

PAIRS = [(2, 2), (3, 2), (4, 2), (5, 2), (4, 4), (6, 4), (1, 1), (3, 1)]
IMAGE = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))


def with_kernel(kernel):
    """Parameters of a layer with this kernel and no bias."""
    return {"params": {"conv": {"kernel": kernel, "bias": jnp.zeros(kernel.shape[-1])}}}


def of_ones(module, x):
    shapes = jax.eval_shape(module.init, jax.random.key(0), x)["params"]["conv"]
    return module.apply(with_kernel(jnp.ones(shapes["kernel"].shape)), x)


@pytest.mark.parametrize("way", WAYS)
def test_twice_the_size_and_the_channels_asked_for(way):
    out, variables = WAYS[way](7).init_with_output(jax.random.key(1), IMAGE)
    assert out.shape == (2, 10, 12, 7)
    assert variables["params"].keys() == {"conv"}


@pytest.mark.parametrize(("kernel", "stride"), PAIRS)
def test_transposed_is_the_adjoint_of_the_convolution_with_its_kernel(kernel, stride):
    """<y, A x> = <Aᵀ y, x>, with A the strided convolution whose padding is cut here."""
    weights = jax.random.normal(jax.random.key(2), (kernel, kernel, 3, 4))
    x = jax.random.normal(jax.random.key(3), (2, 5 * stride, 6 * stride, 4))
    up = Transposed(4, kernel, stride).apply(with_kernel(weights), IMAGE)
    assert up.shape == x.shape
    form = ("NHWC", "HWIO", "NHWC")
    turned = weights[::-1, ::-1].swapaxes(2, 3)
    padding = -(-(kernel - stride) // 2)
    pads = ((padding, kernel - stride - padding),) * 2
    down = lax.conv_general_dilated(x, turned, (stride, stride), pads, dimension_numbers=form)
    np.testing.assert_allclose(jnp.vdot(up, x), jnp.vdot(IMAGE, down), rtol=1e-4)


def test_a_pixel_stamps_the_kernel_turned_round():
    weights = jnp.arange(9.0).reshape(3, 3, 1, 1)
    dot = jnp.zeros((1, 4, 4, 1)).at[0, 1, 2].set(1)
    out = Transposed(1, kernel=3).apply(with_kernel(weights), dot)[0, ..., 0]
    expected = np.zeros((8, 8))
    expected[1:4, 3:6] = np.arange(9)[::-1].reshape(3, 3)
    np.testing.assert_array_equal(out, expected)


@pytest.mark.parametrize(
    ("kernel", "stride", "counts"),
    [(2, 2, [1, 1]), (3, 2, [1, 2]), (4, 2, [2, 2]), (5, 2, [2, 3]), (6, 4, [1, 1, 2, 2])],
)
def test_stamps_a_pixel_gets(kernel, stride, counts):
    """Alike where stride divides kernel, and nowhere else (Odena et al. 2016)."""
    out = of_ones(Transposed(1, kernel, stride), jnp.ones((1, 8, 8, 1)))[0, ..., 0]
    block = np.asarray(out[2 * stride : 3 * stride, 2 * stride : 3 * stride])
    assert sorted(block.ravel().tolist()) == sorted(np.outer(counts, counts).ravel().tolist())


def test_a_kernel_that_leaves_pixels_out():
    with pytest.raises(UserError, match="kernel 1 and stride 2"):
        Transposed(3, kernel=1).init(jax.random.key(0), IMAGE)


def test_pixel_shuffle_lays_channels_out_as_blocks():
    """Of a convolution that hands on the middle pixel of channel c as its c-th part."""
    kernel = jnp.zeros((3, 3, 4, 8)).at[1, 1].set(jnp.tile(jnp.eye(4), 2))
    x = jax.random.normal(jax.random.key(4), (1, 3, 3, 4))
    out = WAYS["pixel_shuffle"](2).apply(with_kernel(kernel), x)
    blocks = einops.rearrange(out, "1 (h p) (w q) c -> h w c (p q)", p=2, q=2)
    wanted = jnp.broadcast_to(x[0, :, :, None], blocks.shape)
    # As far as any way of computing a convolution may err, whichever is this processor's quickest.
    np.testing.assert_allclose(blocks, wanted, atol=2e-5)


def test_nearest_repeats_pixels():
    kernel = jnp.eye(3)[None, None]
    out = WAYS["nearest"](3).apply(with_kernel(kernel), IMAGE)
    np.testing.assert_array_equal(out, np.asarray(IMAGE).repeat(2, 1).repeat(2, 2))


def test_bilinear_goes_straight_between_centres():
    """A ramp stays one: pixel i of the result has its centre at (i + 1/2) / 2 - 1/2."""
    ramp = jnp.broadcast_to(jnp.arange(6.0)[None, :, None, None], (1, 6, 4, 1))
    out = bilinear(ramp)[0, :, 3, 0]
    expected = ((np.arange(12) + 0.5) / 2 - 0.5).clip(0, 5)
    np.testing.assert_allclose(out, expected, atol=1e-5)


def test_resize_conv_convolves_repeated_pixels():
    kernel = jax.random.normal(jax.random.key(5), (3, 3, 3, 2))
    out = WAYS["resize_conv"](2).apply(with_kernel(kernel), IMAGE)
    big = jnp.asarray(np.asarray(IMAGE).repeat(2, 1).repeat(2, 2))
    form = ("NHWC", "HWIO", "NHWC")
    expected = lax.conv_general_dilated(big, kernel, (1, 1), "SAME", dimension_numbers=form)
    np.testing.assert_allclose(out, expected, atol=1e-4)


def test_no_backbone_of_its_own():
    assert "upsampling" not in spec.names(diffjax.models)
