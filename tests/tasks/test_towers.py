"""Guidance by a CLIP's two towers, from Python."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from diffjax.errors import UserError
from diffjax.guidance.plan import Guidance
from diffjax.interop import load_tokenizer
from diffjax.models.clip import CLIP
from diffjax.models.clip_text import CLIPText
from diffjax.models.clip_vision import CLIPVision
from diffjax.models.unet import UNet
from diffjax.schedules.cosine import Cosine
from diffjax.tasks.base import Asked, Component
from diffjax.tasks.denoisers import DENOISER
from diffjax.tasks.diffusion import Diffusion
from diffjax.tasks.towers import Towers

SMALL = {
    "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2,
}  # fmt: skip
TOKENIZER = load_tokenizer()
VISION = CLIPVision(image_size=8, patch_size=4, **SMALL)
TEXT = CLIPText(vocab_size=TOKENIZER.end + 1, **SMALL)
NET = UNet(
    in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
    mid_block_type=None, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
)  # fmt: skip
TASK = Diffusion(model=NET, image_shape=(12, 8, 1), schedule=Cosine(), target="v")


def randomised(shapes):
    """Every parameter random: none at the 0 where it starts."""
    rng = np.random.default_rng(0)
    return jax.tree.map(lambda s: rng.normal(0, 0.3, s.shape).astype(np.float32), shapes)


@pytest.fixture(scope="module")
def towers():
    model = CLIP(VISION, TEXT, 6)
    inputs = jnp.zeros((1, 8, 8, 3)), jnp.zeros((1, 77), jnp.int32)
    shapes = jax.eval_shape(model.init, jax.random.key(0), *inputs)["params"]
    return Towers(model=model, params=randomised(shapes), tokenizer=TOKENIZER)


def test_towards_is_the_cosine_of_what_the_towers_embed(towers):
    """Grey images of another size too; texts repeat in turn, and no weights of the text tower go
    along."""
    judged = towers.towards(["a red heart, broken", "dog"], [1.0, 2.0, 3.0], 3)
    images = np.random.default_rng(1).uniform(-1, 1, (3, 12, 8, 1)).astype(np.float32)
    of_images = towers.images(images)
    of_texts = towers.texts(["a red heart, broken", "dog", "a red heart, broken"])
    lengths = np.linalg.norm(of_images, axis=1) * np.linalg.norm(of_texts, axis=1)
    found = judged.judge(judged.params, jnp.asarray(images), judged.targets)
    np.testing.assert_allclose(found, (of_images * of_texts).sum(1) / lengths, atol=1e-5)
    assert len(np.unique(found)) == 3
    np.testing.assert_array_equal(judged.scale, [1, 2, 3])
    assert not [name for name in judged.params if name.startswith("text")]
    assert judged.judge == towers.towards(["cat"], 1.0, 3).judge, "they share what is compiled"


def test_a_run_draws_towards_a_text(towers):
    """The images of larger scales have larger cosines with their text."""
    shapes = jax.eval_shape(lambda key: TASK.init(key, {}), jax.random.key(0))[DENOISER]
    components = {DENOISER: Component(NET, randomised(shapes))}

    def cosine(scale):
        judged = towers.towards(["dog"], scale, 4)
        asked = Asked(num=4, steps=4, guidance=Guidance(judged=judged))
        images = TASK.sample(components, jax.random.key(0), asked).images
        return float(judged.judge(judged.params, images, judged.targets).mean())

    found = [cosine(scale) for scale in (-300.0, 0.0, 300.0)]
    assert found == sorted(found)
    assert found[2] - found[0] > 0.1, found


def test_what_is_no_guidance(towers):
    for texts, scale, message in (
        ([], 1.0, "a list of texts is needed"),
        ("dog", 1.0, "a list of texts is needed"),
        (["dog"], [1.0, 2.0], "give one finite scale, or 3"),
        (["dog"], float("inf"), "give one finite scale"),
    ):
        with pytest.raises(UserError, match=message):
            towers.towards(texts, scale, 3)
    blind = Towers(model=CLIP(None, TEXT, 6), params=towers.params, tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="no image tower"):
        blind.towards(["dog"], 1.0, 3)
    mute = Towers(model=CLIP(VISION, None, 6), params=towers.params, tokenizer=TOKENIZER)
    with pytest.raises(UserError, match="no text tower"):
        mute.towards(["dog"], 1.0, 3)
