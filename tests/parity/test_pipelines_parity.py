"""Pipelines draw diffusers' images, to a tenth of a step of 255, from the same latents."""

import dataclasses
import gzip
import importlib
import importlib.resources
import json
import os
import pathlib
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from random_weights import randomised

import diffjax as dj
from diffjax.interop.schedulers import scheduler_from_config

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # diffusers imports it where it is there, matching torch or not
diffusers = pytest.importorskip("diffusers", reason="pip install -e '.[parity]'")
transformers = pytest.importorskip("transformers", reason="pip install -e '.[parity]'")

BOUND = 0.1  # of 255
PROMPTS = ["a red apple on a table", " ".join(["an emoji of a cat 🙂, it's naïve"] * 20)]
NOISE = {
    "num_train_timesteps": 1000, "beta_start": 0.00085, "beta_end": 0.012,
    "beta_schedule": "scaled_linear", "steps_offset": 1,
}  # fmt: skip
LEVELS = {
    "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D"),
    "up_block_types": ("CrossAttnUpBlock2D", "UpBlock2D"),
}


def tokenizer(pad="<|endoftext|>"):
    """transformers' own, from the merges in the package."""
    file = importlib.resources.files("diffjax.third_party") / "clip_bpe"
    text = gzip.decompress((file / "bpe_simple_vocab_16e6.txt.gz").read_bytes()).decode()
    merges = [tuple(line.split()) for line in text.split("\n")[1 : 49152 - 256 - 2 + 1]]
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    symbols = [chr(byte) for byte in keep] + [chr(256 + i) for i in range(256 - len(keep))]
    tokens = [*symbols, *(s + "</w>" for s in symbols), *map("".join, merges)]
    tokens += ["<|startoftext|>", "<|endoftext|>"]
    vocab = {token: index for index, token in enumerate(tokens)}
    return transformers.CLIPTokenizer(
        vocab=vocab, merges=merges, pad_token=pad, model_max_length=77
    )


def text_encoder(width, act, kind=transformers.CLIPTextModel, **more):
    config = transformers.CLIPTextConfig(
        vocab_size=49408, hidden_size=width, intermediate_size=2 * width, num_hidden_layers=2,
        num_attention_heads=2, max_position_embeddings=77, hidden_act=act, eos_token_id=2, **more,
    )  # fmt: skip
    return randomised(kind(config))


def unet(width, channels=4, **options):
    return randomised(diffusers.UNet2DConditionModel(
        sample_size=8, in_channels=channels, block_out_channels=(16, 32), layers_per_block=1,
        norm_num_groups=4, cross_attention_dim=width, **LEVELS, **options,
    ))  # fmt: skip


def stage(**options):
    return randomised(diffusers.AutoencoderKL(
        block_out_channels=(8, 16, 16, 16), down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4, norm_num_groups=4, **options,
    ))  # fmt: skip


def stable_diffusion(scheduler, kind=None, *, pad="<|endoftext|>", act="quick_gelu", **options):
    kind = kind or diffusers.StableDiffusionPipeline
    return kind(
        vae=stage(), text_encoder=text_encoder(12, act), tokenizer=tokenizer(pad),
        unet=unet(12, **options), scheduler=scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip


def xl(scheduler):
    second = transformers.CLIPTextModelWithProjection
    return diffusers.StableDiffusionXLPipeline(
        vae=stage(scaling_factor=0.13025), text_encoder=text_encoder(12, "quick_gelu"),
        text_encoder_2=text_encoder(8, "gelu", second, projection_dim=10), tokenizer=tokenizer(),
        tokenizer_2=tokenizer("!"), scheduler=scheduler, add_watermarker=False,
        unet=unet(
            20, attention_head_dim=(2, 4), use_linear_projection=True,
            transformer_layers_per_block=(1, 2), addition_embed_type="text_time",
            addition_time_embed_dim=6, projection_class_embeddings_input_dim=6 * 6 + 10,
        ),
    )  # fmt: skip


def loaded(theirs, folder):
    theirs.set_progress_bar_config(disable=True)
    theirs.save_pretrained(folder)
    return dj.load_pipeline(folder)


def latents(height, width):
    return np.random.default_rng(1).normal(size=(2, height // 8, width // 8, 4)).astype(np.float32)


def in_torch(x):
    return torch.tensor(np.ascontiguousarray(x.transpose(0, 3, 1, 2)))


def check_same(ours, theirs):
    error = np.abs((np.asarray(ours) + 1) / 2 - theirs).max() * 255
    print(f"largest difference {error:.4f} of 255, spread of the images {theirs.std():.3f}")
    assert theirs.std() > 0.02
    assert error < BOUND


def draw_both(theirs, folder, height=64, width=64, steps=5, **options):
    """Text to images; 72 and 56 pixels have latents that no level halves evenly."""
    ours, noise = loaded(theirs, folder), latents(height, width)
    wanted = theirs(
        PROMPTS, height=height, width=width, num_inference_steps=steps, guidance_scale=4.0,
        latents=in_torch(noise), output_type="np",
        negative_prompt=options.get("negative_prompts"),
    ).images  # fmt: skip
    found = ours.sample(
        PROMPTS, guidance=4.0, steps=steps, latents=jnp.asarray(noise), height=height, width=width,
        **options,
    )  # fmt: skip
    check_same(found, wanted)
    return ours


@pytest.mark.parametrize("old", [{"steps_offset": 0, "clip_sample": True}, {}])
@pytest.mark.parametrize("kind", ["DDIMScheduler", "PNDMScheduler"])
def test_folders_of_diffusers_first_releases(kind, old, tmp_path):
    """Whose options the pipeline sets right, and so do the class's defaults."""
    stable_diffusion(getattr(diffusers, kind)(**NOISE)).save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    config = json.loads(path.read_text())
    for name in ("steps_offset", "clip_sample"):
        config.pop(name, None)
    if kind == "PNDMScheduler":
        config["skip_prk_steps"] = True
    path.write_text(json.dumps({**config, **old}))
    theirs = diffusers.StableDiffusionPipeline.from_pretrained(tmp_path)
    assert theirs.scheduler.config.steps_offset == 1
    ours, noise = dj.load_pipeline(tmp_path), latents(64, 64)
    theirs.set_progress_bar_config(disable=True)
    wanted = theirs(
        PROMPTS, num_inference_steps=5, guidance_scale=4.0, latents=in_torch(noise),
        output_type="np",
    ).images  # fmt: skip
    check_same(ours.sample(PROMPTS, guidance=4.0, steps=5, latents=jnp.asarray(noise)), wanted)


def test_stable_diffusion_2(tmp_path):
    """v-prediction from no signal at all, numbers of heads by level, padding with "!"."""
    scheduler = diffusers.DDIMScheduler(
        clip_sample=False, set_alpha_to_one=False, prediction_type="v_prediction",
        timestep_spacing="trailing", rescale_betas_zero_snr=True, **NOISE,
    )  # fmt: skip
    theirs = stable_diffusion(
        scheduler, pad="!", act="gelu", attention_head_dim=(2, 4), use_linear_projection=True,
        upcast_attention=True,
    )  # fmt: skip
    draw_both(theirs, tmp_path, height=72, width=56, negative_prompts=["blue", "a dog"])


def test_stable_diffusion_xl(tmp_path):
    scheduler = diffusers.EulerDiscreteScheduler(timestep_spacing="leading", **NOISE)
    theirs = xl(scheduler)
    draw_both(theirs, tmp_path, height=48)
    draw_both(theirs, tmp_path, negative_prompts=["blue", "a dog"])
    theirs.register_to_config(force_zeros_for_empty_prompt=False)
    assert not draw_both(theirs, tmp_path).prompts.zeros


@pytest.fixture
def nothing_drawn(monkeypatch):
    """Latents of images are the means of what the encoder draws from, and noise is as given."""

    def patch(name, noise):
        module = importlib.import_module(f"diffusers.pipelines.stable_diffusion.{name}")
        mode = lambda out, generator=None, **_: out.latent_dist.mode()  # noqa: E731
        monkeypatch.setattr(module, "retrieve_latents", mode)
        monkeypatch.setattr(module, "randn_tensor", lambda *_, **__: in_torch(noise))

    return patch


@pytest.mark.parametrize("name", ["DDIMScheduler", "DPMSolverMultistepScheduler"])
def test_images_drawn_anew(name, tmp_path, nothing_drawn):
    scheduler = getattr(diffusers, name)(**NOISE)
    theirs = stable_diffusion(scheduler, diffusers.StableDiffusionImg2ImgPipeline)
    ours, noise = loaded(theirs, tmp_path), latents(64, 64)
    nothing_drawn("pipeline_stable_diffusion_img2img", noise)
    images = np.random.default_rng(2).uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    for steps, strength in ((10, 0.6), (7, 0.3)):
        wanted = theirs(
            PROMPTS, image=in_torch(images), num_inference_steps=steps, strength=strength,
            guidance_scale=4.0, output_type="np",
        ).images  # fmt: skip
        found = ours.sample(
            PROMPTS, guidance=4.0, steps=steps, latents=jnp.asarray(noise), images=images,
            strength=strength,
        )  # fmt: skip
        check_same(found, wanted)


def check_painted(theirs, folder, nothing_drawn, grain):
    """What is kept are random squares of `grain` pixels."""
    ours, noise = loaded(theirs, folder), latents(64, 64)
    nothing_drawn("pipeline_stable_diffusion_inpaint", noise)
    rng, side = np.random.default_rng(2), 64 // grain
    images = rng.uniform(-1, 1, (2, 64, 64, 3)).astype(np.float32)
    keep = np.kron(rng.random((side, side)) < 0.5, np.ones((grain, grain))).astype(bool)[..., None]
    mask = torch.tensor(~keep[None, None, ..., 0], dtype=torch.float32).repeat(2, 1, 1, 1)
    wanted = theirs(
        PROMPTS, image=in_torch(images), mask_image=mask, num_inference_steps=6, strength=1.0,
        guidance_scale=4.0, latents=in_torch(noise), output_type="np",
    ).images  # fmt: skip
    found = ours.sample(
        PROMPTS, guidance=4.0, steps=6, latents=jnp.asarray(noise), images=images, keep=keep
    )
    check_same(found, wanted)


def test_painting_by_a_unet_of_nine_channels(tmp_path, nothing_drawn):
    theirs = stable_diffusion(
        diffusers.DDIMScheduler(clip_sample=False, set_alpha_to_one=False, **NOISE),
        diffusers.StableDiffusionInpaintPipeline, channels=9,
    )  # fmt: skip
    check_painted(theirs, tmp_path, nothing_drawn, grain=4)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("DDIMScheduler", {"clip_sample": False}),  # which this pipeline alone does not set
        ("DPMSolverMultistepScheduler", {}),
        ("EulerDiscreteScheduler", {}),
    ],
)
def test_painting_by_a_unet_that_is_shown_no_mask(name, options, tmp_path, nothing_drawn):
    """Of whole latents: diffusers keeps one by its first pixel, and we where all are kept."""
    scheduler = getattr(diffusers, name)(**options, **NOISE)
    theirs = stable_diffusion(scheduler, diffusers.StableDiffusionInpaintPipeline)
    check_painted(theirs, tmp_path, nothing_drawn, grain=8)


@pytest.fixture(scope="module")
def miniature():
    root = os.environ.get("DIFFJAX_DATA_DIR")
    if not root:
        pytest.skip("DIFFJAX_DATA_DIR names no folder with sd_mini/")
    folder = pathlib.Path(root) / "sd_mini" / "sd15"
    return dj.load_pipeline(folder), folder, dict(np.load(folder / "reference.npz"))


# The classes and options with which the script beside the miniature drew its reference.
SCHEDULERS = {
    "pndm": ("PNDMScheduler", {"skip_prk_steps": True, "timestep_spacing": "leading"}),
    "ddim": ("DDIMScheduler", {"clip_sample": False, "timestep_spacing": "leading"}),
    "euler": ("EulerDiscreteScheduler", {}),
    "euler_karras": ("EulerDiscreteScheduler", {"use_karras_sigmas": True}),
    "heun": ("HeunDiscreteScheduler", {}),
    "lms": ("LMSDiscreteScheduler", {}),
    "dpmpp_2m": ("DPMSolverMultistepScheduler", {}),
    "dpmpp_2m_karras": ("DPMSolverMultistepScheduler", {"use_karras_sigmas": True}),
    "unipc": ("UniPCMultistepScheduler", {}),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_the_small_stable_diffusion(name, miniature):
    """diffusers' images are in its file: torch draws nothing here."""
    pipe, _, reference = miniature
    kind, options = SCHEDULERS[name]
    config = {"_class_name": kind, **NOISE, "set_alpha_to_one": False, **options}
    if name not in ("pndm", "ddim"):
        del config["set_alpha_to_one"]
    pipe = dataclasses.replace(pipe, scheduler=scheduler_from_config(config))
    found = pipe.sample(
        reference["prompts"].tolist(), guidance=float(reference["guidance"]),
        steps=int(reference["steps"]),
        latents=jnp.asarray(reference["latents"].transpose(0, 2, 3, 1)),
    )  # fmt: skip
    check_same(found, reference[f"{name}/images"])


def test_the_small_stable_diffusion_with_its_own_scheduler(miniature):
    pipe, folder, reference = miniature
    config = json.loads((folder / "scheduler" / "scheduler_config.json").read_text())
    assert config["_class_name"] == SCHEDULERS["pndm"][0]
    assert pipe.scheduler == scheduler_from_config(config)
    told, empty = pipe.prompts(reference["prompts"].tolist(), None)
    np.testing.assert_allclose(told.tokens, reference["embeds/cond"], atol=1e-5)
    np.testing.assert_allclose(empty.tokens, reference["embeds/uncond"], atol=1e-5)
    assert reference.keys() >= {f"{name}/images" for name in SCHEDULERS}
