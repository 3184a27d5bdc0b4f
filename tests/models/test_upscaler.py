"""What a network that enlarges images sees, against Pillow."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image

from diffjax.conditions.low_resolution import Small
from diffjax.errors import UserError
from diffjax.models.unet import UNet
from diffjax.models.upscaler import Upscaler, enlarged

NET = (
    "unet(in_channels={},out_channels=1,block_out_channels=(4,),layers_per_block=1,"
    "norm_num_groups=2,mid_block_type=None,down_block_types=('DownBlock2D',),"
    "up_block_types=('UpBlock2D',){})"
)


def test_images_are_enlarged_as_by_pillow():
    pixels = np.random.default_rng(0).normal(size=(5, 7)).astype(np.float32)
    wanted = Image.fromarray(pixels).resize((21, 15), Image.Resampling.BICUBIC)
    found = enlarged(jnp.asarray(pixels)[None, ..., None], 3)[0, ..., 0]
    np.testing.assert_allclose(found, np.asarray(wanted), atol=1e-5)


def test_the_backbone_sees_the_noisy_image_the_enlarged_one_and_its_noise(monkeypatch):
    model = Upscaler(NET.format(3, ""), 2, 1, 8)
    rng = np.random.default_rng(0)
    x, small = (jnp.asarray(rng.normal(size=(2, side, side, 1)), jnp.float32) for side in (8, 4))
    cond = Small(small, jnp.asarray([0.1, 0.7]))
    told = []
    monkeypatch.setattr(
        UNet, "__call__", lambda self, x, t, **options: told.append((t, options)) or x
    )
    seen = model.apply({}, x, jnp.asarray([3.0, 5.0]), cond, train=True)
    np.testing.assert_array_equal(seen[..., :1], x)
    np.testing.assert_array_equal(seen[..., 1:2], enlarged(small, 2))
    np.testing.assert_allclose(seen[:, 3, 5, 2], cond.noise)
    assert [(t.tolist(), options) for t, options in told] == [([3.0, 5.0], {"train": True})]


def test_its_time_is_the_backbone_s():
    model = Upscaler(NET.format(3, ",time_embedding_type='fourier'"), 2, 1, 8)
    assert model.time_input == "sigma"
    learned = NET.format(3, ",time_embedding_type='learned',num_train_timesteps=9")
    assert Upscaler(learned, 2, 1, 8).time_rows == 9


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"net": "vae"}, "choose a backbone without"),
        ({"net": NET.format(3, ",num_class_embeds=2")}, "choose a backbone without classes"),
        ({"net": NET.format(1, "")}, "in_channels=1: set in_channels=3"),
        ({"factor": 3}, "factor=3 does not divide tiles of 8x8"),
        ({"factor": 1}, "factor=1 does not divide"),
        ({"sample_size": (8, 9)}, "tiles of 8x9"),
    ],
)
def test_refused(options, message):
    given = {"net": NET.format(3, ""), "factor": 2, "in_channels": 1, "sample_size": 8}
    with pytest.raises(UserError, match=message) as caught:
        Upscaler(**{**given, **options})
    assert "\n" not in str(caught.value)


def test_another_size_of_smaller_images_is_refused():
    model = Upscaler(NET.format(3, ""), 2, 1, 8)
    cond = Small(jnp.zeros((1, 4, 5, 1)), jnp.zeros(1))
    with pytest.raises(UserError, match="give those 2 times smaller"):
        jax.eval_shape(model.init, jax.random.key(0), jnp.zeros((1, 8, 8, 1)), jnp.zeros(1), cond)
