"""Exported runs: diffusers' DiffusionPipeline loads them and draws our images."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_runs import random_run, random_weights
from text_runs import text_run

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # type: ignore[assignment]  # one that misfits torch would break it
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e '.[parity]'"
)

import diffjax as dj  # noqa: E402
from diffjax import runs, spec  # noqa: E402
from diffjax.interop.schedulers import scheduler_config  # noqa: E402
from diffjax.models.autoencoder_kl import AutoencoderKL  # noqa: E402
from diffjax.models.dit import DiT  # noqa: E402
from diffjax.models.unet import UNet  # noqa: E402
from diffjax.models.vq import VQModel  # noqa: E402
from diffjax.randomness import fold_in, normal  # noqa: E402
from diffjax.run_pipeline import save_pipeline  # noqa: E402
from diffjax.tasks.diffusion import Diffusion  # noqa: E402

KEY, NUM, STEPS = jax.random.key(0), 3, 5
NET = UNet(
    in_channels=3, out_channels=3, block_out_channels=(8, 8), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownBlock2D", "AttnDownBlock2D"), attention_head_dim=4,
    up_block_types=("AttnUpBlock2D", "UpBlock2D"),
)  # fmt: skip
TRANSFORMER = DiT(
    num_attention_heads=2, attention_head_dim=8, in_channels=4, num_layers=2, sample_size=4,
    num_embeds_ada_norm=3, norm_num_groups=4,
)  # fmt: skip
CLASSES = dj.conditions.Label(3, names=("red", "green", "blue"), drop=0.1)
PIXELS = {
    "model": NET,
    "image_shape": (8, 8, 3),
    "schedule": dj.schedules.Linear(),
    "target": "eps",
}
LATENTS = {
    "model": NET.clone(in_channels=4, out_channels=4), "image_shape": (16, 16, 3), "target": "v",
    "schedule": dj.schedules.Cosine(), "space": dj.spaces.Latents(4, 4, scale_factor=0.7),
}  # fmt: skip
STAGE = AutoencoderKL(
    block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4,
    down_block_types=("DownEncoderBlock2D",) * 3, up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip
CODES = VQModel(
    block_out_channels=(8, 8, 8), layers_per_block=1, norm_num_groups=4, latent_channels=4,
    num_vq_embeddings=8, down_block_types=("DownEncoderBlock2D",) * 3,
    up_block_types=("UpDecoderBlock2D",) * 3,
)  # fmt: skip
# What is written for each, what it is made of, and options of both draws.
CASES = {
    "pixels": ("DDPMPipeline", PIXELS, {}, {}),
    "a_learnt_variance": (
        "DDPMPipeline",
        {**PIXELS, "model": NET.clone(out_channels=6), "learned_variance": True}, {}, {},
    ),
    "classes": (
        "ConsistencyModelPipeline",
        {**PIXELS, "model": NET.clone(num_class_embeds=4), "condition": CLASSES, "target": "v",
         "schedule": dj.schedules.Linear(zero_terminal_snr=True)},
        {"labels": [0, 2, 1]}, {"class_labels": [0, 2, 1]},
    ),
    "latents": ("LDMPipeline", {**LATENTS, "stage": STAGE, "schedule": dj.schedules.Sigmoid(),
                                "target": "x0"}, {}, {}),
    "codes": ("LDMPipeline", {**LATENTS, "stage": CODES}, {}, {}),
    "classes_of_latents": (
        "DiTPipeline",
        {**LATENTS, "stage": STAGE, "model": NET.clone(in_channels=4, out_channels=4,
                                                       num_class_embeds=4), "condition": CLASSES},
        {"labels": [0, 2, 1], "guidance": 3.0},
        {"class_labels": [0, 2, 1], "guidance_scale": 3.0},
    ),
    "a_transformer": (
        "DiTPipeline",
        {**LATENTS, "stage": STAGE, "model": TRANSFORMER, "condition": CLASSES,
         "schedule": dj.schedules.ScaledLinear(), "target": "eps"},
        {"labels": [0, 2, 1], "guidance": 2.0},
        {"class_labels": [0, 2, 1], "guidance_scale": 2.0},
    ),
    "a_transformer_of_variance": (
        "DiTPipeline",
        {**LATENTS, "stage": STAGE, "model": TRANSFORMER.clone(out_channels=8),
         "condition": dj.conditions.Label(3), "schedule": dj.schedules.Cosine(offset=0.02),
         "target": "eps", "learned_variance": True},
        {"labels": [0, 2, 1]}, {"class_labels": [0, 2, 1], "guidance_scale": 1.0},
    ),
}  # fmt: skip


def made(root, stage=None, **options):
    """A run of random weights, with a first stage of random weights where there is one."""
    if stage is not None:
        image = jax.ShapeDtypeStruct((1, 16, 16, 3), jnp.float32)
        params = random_weights(jax.eval_shape(stage.init, KEY, image)["params"])
        save = dj.save_vq_model if isinstance(stage, VQModel) else dj.save_autoencoder_kl
        save(stage, params, root / "stage")
        options["autoencoder"] = runs.source_of(root / "stage", "autoencoder")
    return random_run(root / "run", Diffusion(**options))


def noise_of(run):
    """What our draw begins with, in torch's layout."""
    _, sigma = run.task.schedule.alpha_sigma(jnp.ones(()))
    keys = dj.sample_keys(KEY, 0, NUM)
    x = sigma * normal(fold_in(keys, 0), run.task.shape)
    return torch.from_numpy(np.array(x.transpose(0, 3, 1, 2)))


@pytest.mark.parametrize("case", CASES)
def test_diffusers_draws_our_images(case, tmp_path, monkeypatch):
    name, options, ours, theirs = CASES[case]
    run = made(tmp_path, **options)
    assert save_pipeline(run, tmp_path / "out") == name
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipe).__name__ == name
    module = sys.modules[type(pipe).__module__]
    monkeypatch.setattr(module, "randn_tensor", lambda *args, **kwargs: noise_of(run))
    pipe.set_progress_bar_config(disable=True)
    size = {} if name == "DiTPipeline" else {"batch_size": NUM}
    drawn = pipe(num_inference_steps=STEPS, output_type="np", **size, **theirs).images
    mine = run.sample(KEY, num=NUM, steps=STEPS, sampler="ddim", **ours)
    mine = np.clip(np.asarray(mine) / 2 + 0.5, 0, 1)
    assert np.std(mine) > 0.05
    assert np.abs(drawn - mine).max() * 255 < 0.1


@pytest.mark.parametrize("guidance", [1.0, 4.0])
def test_diffusers_draws_our_images_of_texts(guidance, tmp_path):
    """With transformers' text encoder and tokenizer; a text may be longer than a row."""
    run, texts = (
        text_run(tmp_path),
        ["a red apple", "two dogs", "a much longer text than fits here"],
    )
    assert save_pipeline(run, tmp_path / "out") == "StableDiffusionPipeline"
    pipe = diffusers.DiffusionPipeline.from_pretrained(tmp_path / "out")
    assert type(pipe).__name__ == "StableDiffusionPipeline"
    pipe.set_progress_bar_config(disable=True)
    drawn = pipe(
        texts, num_inference_steps=STEPS, guidance_scale=guidance, latents=noise_of(run),
        output_type="np",
    ).images  # fmt: skip
    mine = run.sample(KEY, num=NUM, steps=STEPS, sampler="ddim", labels=texts, guidance=guidance)
    mine = np.clip(np.asarray(mine) / 2 + 0.5, 0, 1)
    assert np.std(mine) > 0.05
    assert np.abs(drawn - mine).max() * 255 < 0.1


def test_labels_have_names(tmp_path):
    *_, options = CASES["a_transformer"][:2]
    save_pipeline(made(tmp_path, **options), tmp_path / "out")
    pipe = diffusers.DiTPipeline.from_pretrained(tmp_path / "out")
    assert pipe.get_label_ids(["blue", "red"]) == [2, 0]
    assert pipe.transformer.config.num_embeds_ada_norm == 1000


@pytest.mark.parametrize(
    "schedule",
    [
        dj.schedules.Linear(), dj.schedules.Linear(150), dj.schedules.ScaledLinear(),
        dj.schedules.Cosine(), dj.schedules.Cosine(offset=0.1), dj.schedules.Sigmoid(),
        dj.schedules.Laplace(), dj.schedules.ShiftedCosine(), dj.schedules.Monotone(),
        dj.schedules.ScaledLinear(zero_terminal_snr=True),
    ],
    ids=spec.render,
)  # fmt: skip
def test_every_schedule_has_betas(schedule):
    """alpha_bar after each step; diffusers' is a product of float32 numbers."""
    config = scheduler_config(dj.Process(schedule, "v"))
    scheduler = diffusers.DPMSolverMultistepScheduler.from_config(config)
    t = jnp.arange(1, schedule.steps + 1) / schedule.steps
    alpha, _ = schedule.alpha_sigma(t)
    np.testing.assert_allclose(scheduler.alphas_cumprod, alpha**2, rtol=2e-3, atol=2e-6)
