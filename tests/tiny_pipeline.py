"""A folder of a tiny Stable Diffusion with random weights, written without torch."""

import json
import pathlib

import jax
import jax.numpy as jnp
import numpy as np

from diffjax.interop import save_autoencoder_kl, save_clip, save_unet2d_condition
from diffjax.interop.autoencoder_kl import FORM as STAGE
from diffjax.interop.diffusers_folder import slots_of
from diffjax.interop.unet2d_condition import FORM as UNET
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.clip import CLIP
from diffjax.models.clip_text import CLIPText
from diffjax.models.unet_condition import ConditionalUNet
from diffjax.text.bpe import BYTE_SYMBOLS, END_OF_WORD

LENGTH = 8  # tokens, of which each byte of a text is one
TOKENS = [*BYTE_SYMBOLS, *(symbol + END_OF_WORD for symbol in BYTE_SYMBOLS)]
TOKENS += ["<|startoftext|>", "<|endoftext|>"]
SCHEDULER = {
    "_class_name": "DDIMScheduler", "beta_start": 0.00085, "beta_end": 0.012, "steps_offset": 1,
    "beta_schedule": "scaled_linear", "clip_sample": False, "set_alpha_to_one": False,
}  # fmt: skip
PARTS = {
    "unet": ["diffusers", "UNet2DConditionModel"],
    "vae": ["diffusers", "AutoencoderKL"],
    "text_encoder": ["transformers", "CLIPTextModel"],
    "tokenizer": ["transformers", "CLIPTokenizer"],
    "scheduler": ["diffusers", "DDIMScheduler"],
    "safety_checker": [None, None],
    "feature_extractor": [None, None],
}


def unet(in_channels=4, width=6, **options):
    return ConditionalUNet(
        sample_size=4, in_channels=in_channels, block_out_channels=(8,), layers_per_block=1,
        down_block_types=("CrossAttnDownBlock2D",), up_block_types=("UpBlock2D",),
        mid_block_type=None, norm_num_groups=4, cross_attention_dim=width, attention_head_dim=2,
        **options,
    )  # fmt: skip


STAGE_MODEL = AutoencoderKL(
    down_block_types=("DownEncoderBlock2D",) * 2, up_block_types=("UpDecoderBlock2D",) * 2,
    block_out_channels=(4, 4), norm_num_groups=2, layers_per_block=1,
)  # fmt: skip


def text_model(width=6, projection=None):
    tower = CLIPText(
        hidden_size=width, intermediate_size=8, num_hidden_layers=2, num_attention_heads=2,
        vocab_size=len(TOKENS), max_position_embeddings=LENGTH, eos_token_id=len(TOKENS) - 1,
    )  # fmt: skip
    return CLIP(None, tower, projection)


def drawn(shapes, seed):
    """Random parameters; what attends to texts is large, so that texts show."""
    rng = np.random.default_rng(seed)

    def leaf(path, shape):
        size = 2.0 if "attn2" in jax.tree_util.keystr(path) else 0.5
        return jnp.asarray(rng.normal(0, size, shape.shape), jnp.float32)

    return jax.tree_util.tree_map_with_path(leaf, shapes)


def tree_of(model, form):
    tree = {}
    for path, shape in slots_of(model, form).values():
        here = tree
        for name in path[:-1]:
            here = here.setdefault(name, {})
        here[path[-1]] = jax.ShapeDtypeStruct(shape, jnp.float32)
    return tree


def write_tokenizer(folder: pathlib.Path) -> None:
    folder.mkdir()
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(TOKENS)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    config = {"tokenizer_class": "CLIPTokenizer", "model_max_length": LENGTH}
    (folder / "tokenizer_config.json").write_text(json.dumps(config))


def write_encoder(folder: pathlib.Path, model: CLIP, seed: int) -> None:
    ids = jax.ShapeDtypeStruct((1, 1), jnp.int32)
    shapes = jax.eval_shape(
        lambda ids: model.init(jax.random.key(0), ids, method="encode_text"), ids
    )
    save_clip(model, drawn(shapes["params"], seed), folder)


def write_folder(folder: pathlib.Path, *, xl=False, in_channels=4, seed=0, **index) -> pathlib.Path:
    """A pipeline whose images are 8x8, from latents of 4x4."""
    folder.mkdir(parents=True)
    options = {}
    if xl:
        options = {
            "addition_embed_type": "text_time", "addition_time_embed_dim": 4,
            "projection_class_embeddings_input_dim": 6 * 4 + 5, "width": 6 + 4,
        }  # fmt: skip
    model = unet(in_channels, **options)
    save_unet2d_condition(model, drawn(tree_of(model, UNET), seed), folder / "unet")
    save_autoencoder_kl(STAGE_MODEL, drawn(tree_of(STAGE_MODEL, STAGE), seed + 1), folder / "vae")
    write_encoder(folder / "text_encoder", text_model(), seed + 2)
    write_tokenizer(folder / "tokenizer")
    (folder / "scheduler").mkdir()
    (folder / "scheduler" / "scheduler_config.json").write_text(json.dumps(SCHEDULER))
    parts = dict(PARTS)
    if xl:
        write_encoder(folder / "text_encoder_2", text_model(4, projection=5), seed + 3)
        write_tokenizer(folder / "tokenizer_2")
        parts["text_encoder_2"] = ["transformers", "CLIPTextModelWithProjection"]
        parts["tokenizer_2"] = ["transformers", "CLIPTokenizer"]
    name = "StableDiffusionXLPipeline" if xl else "StableDiffusionPipeline"
    text = json.dumps({"_class_name": name, "_diffusers_version": "0.42.1", **parts, **index})
    (folder / "model_index.json").write_text(text)
    return folder
