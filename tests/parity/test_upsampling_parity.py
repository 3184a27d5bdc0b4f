"""Transposed convolutions of other kernels and strides than the course's, against torch."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.models.upsampling import Transposed

torch = pytest.importorskip("torch")
pytestmark = pytest.mark.parity


@pytest.mark.parametrize(
    ("kernel", "stride", "padding", "output_padding"),
    [(2, 2, 0, 0), (3, 2, 1, 1), (4, 2, 1, 0), (5, 2, 2, 1), (6, 4, 1, 0), (8, 4, 2, 0)],
)
def test_cut_as_torch_cuts_it(kernel, stride, padding, output_padding):
    x = jax.random.normal(jax.random.key(0), (2, 5, 6, 3))
    weights = jax.random.normal(jax.random.key(1), (kernel, kernel, 3, 4))
    bias = jnp.arange(4.0)
    params = {"params": {"conv": {"kernel": weights, "bias": bias}}}
    ours = Transposed(4, kernel, stride).apply(params, x)
    theirs = torch.nn.functional.conv_transpose2d(
        torch.from_numpy(np.asarray(x.transpose(0, 3, 1, 2)).copy()),
        torch.from_numpy(np.asarray(weights)[::-1, ::-1].transpose(2, 3, 0, 1).copy()),
        torch.from_numpy(np.asarray(bias).copy()),
        stride=stride,
        padding=padding,
        output_padding=output_padding,
    )
    np.testing.assert_allclose(ours, theirs.numpy().transpose(0, 2, 3, 1), rtol=1e-4, atol=1e-4)
