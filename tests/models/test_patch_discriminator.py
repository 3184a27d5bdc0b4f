"""The discriminator of patches: what each logit depends on, sizes, and what it refuses."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import diffjax.models
from diffjax import spec
from diffjax.errors import UserError
from diffjax.models.patch_discriminator import PatchDiscriminator

KEY = jax.random.key(0)


@pytest.mark.parametrize(
    ("n_layers", "shape", "grid"),
    [
        (3, (28, 28, 1), (1, 1)),
        (3, (32, 32, 3), (2, 2)),
        (3, (256, 256, 3), (30, 30)),  # Isola et al. 2017: 70x70 patches of 256x256 images
        (2, (28, 35, 1), (5, 6)),
        (1, (6, 7, 2), (1, 1)),
    ],
)
def test_logits_per_image(n_layers, shape, grid):
    model = PatchDiscriminator(n_layers=n_layers)
    images = jax.ShapeDtypeStruct((2, *shape), jnp.float32)
    logits, _ = jax.eval_shape(model.init_with_output, KEY, images)
    assert logits.shape == (2, *grid)


@pytest.mark.parametrize(("n_layers", "seen"), [(1, 16), (2, 34)])
def test_a_logit_depends_on_its_own_patch_of_its_own_image(n_layers, seen):
    """16 and 34 pixels across, as the windows' sizes and strides add up (Isola et al. 2017)."""
    model = PatchDiscriminator(n_layers=n_layers, channels=2)
    images = jax.random.normal(KEY, (2, 48, 44, 1))
    params = jax.jit(model.init)(KEY, images)

    @jax.jit
    def slope(images):
        def middle(x):
            logits = model.apply(params, x)
            return logits[1, logits.shape[1] // 2, logits.shape[2] // 2]

        return jax.grad(middle)(images)

    other, own = np.abs(slope(images)[..., 0])
    assert other.max() == 0
    for axis in (0, 1):
        reached = np.flatnonzero(own.max(1 - axis))
        assert (reached.max() - reached.min() + 1, len(reached)) == (seen, seen)


def test_spectral_norm_bounds_every_kernel():
    """The logits do not change where kernels are multiplied; those of the plain network do."""
    images = jax.random.normal(KEY, (2, 12, 12, 1))
    for spectral_norm in (False, True):
        model = PatchDiscriminator(1, 4, spectral_norm)
        params = model.init(KEY, images)
        grown = jax.tree.map(lambda a: 3 * a if a.ndim > 1 else a, params)
        apply = jax.jit(model.apply)
        same = np.allclose(apply(grown, images), apply(params, images), rtol=1e-4)
        assert same == spectral_norm


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("patch_discriminator(n_layers=0)", "n_layers must be above 0"),
        ("patch_discriminator(channels=-1)", "channels must be above 0"),
        ("patch_discriminator(spectral_norm=3)", "spectral_norm is a"),
    ],
)
def test_refused(text, message):
    with pytest.raises(UserError, match=message):
        spec.build(text, diffjax.models)


def test_images_too_small_for_one_logit_are_refused():
    init = partial(jax.eval_shape, PatchDiscriminator(3).init, KEY)
    with pytest.raises(UserError, match="needs images of 24 pixels or more, and these have 23x30"):
        init(jnp.zeros((1, 23, 30, 1)))
