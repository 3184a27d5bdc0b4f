"""A run of random weights that is told texts as Stable Diffusion is."""

import jax
import jax.numpy as jnp
from random_runs import random_run, random_weights
from towers import LENGTH, SHAPE, contrastive

import diffjax as dj
from diffjax import runs
from diffjax.conditions.tokens import Tokens
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.tasks.text_to_image import TextToImage

NET = ConditionalUNet(
    in_channels=4, out_channels=4, block_out_channels=(8, 8), layers_per_block=1,
    norm_num_groups=4, cross_attention_dim=SHAPE["hidden_size"], attention_head_dim=2,
    down_block_types=("CrossAttnDownBlock2D", "DownBlock2D"),
    up_block_types=("UpBlock2D", "CrossAttnUpBlock2D"),
)  # fmt: skip
STAGE = AutoencoderKL(
    block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip


def text_run(root, **options):
    """In folders of `root`, with a CLIP and a first stage of random weights, loaded."""
    random_run(root / "clip", contrastive(4, 8, 3))
    image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
    stage = random_weights(jax.eval_shape(STAGE.init, jax.random.key(0), image)["params"])
    dj.save_autoencoder_kl(STAGE, stage, root / "stage")
    parts = {
        "model": NET, "image_shape": (16, 16, 3), "space": dj.spaces.Latents(4, 4, 0.7, -0.3),
        "schedule": dj.schedules.ScaledLinear(), "target": "eps", "told": "padded_tokens",
        "condition": Tokens(LENGTH, SHAPE["hidden_size"], padded=True, drop=0.1),
        "clip": runs.source_of(root / "clip", "clip"), "normalise": False, "shift": False,
        "autoencoder": runs.source_of(root / "stage", "autoencoder"), **options,
    }  # fmt: skip
    return random_run(root / "run", TextToImage(**parts))
