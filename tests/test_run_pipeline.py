"""Runs as folders of diffusers, read back without it; what it cannot hold is refused by name."""

import dataclasses
import json
import pathlib

import chex
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from random_runs import random_run, random_weights
from text_runs import text_run

import diffjax as dj
from diffjax import runs
from diffjax.models.autoencoder_kl import AutoencoderKL
from diffjax.models.course_unet import CourseUNet
from diffjax.models.dit import DiT
from diffjax.models.unet import UNet
from diffjax.models.vae import VAE
from diffjax.models.vq import VQModel
from diffjax.tasks.base import Component, Source
from diffjax.tasks.diffusion import Diffusion
from diffjax.training.run import RunFolder

NET = UNet(
    in_channels=1, out_channels=1, block_out_channels=(8,), layers_per_block=1, norm_num_groups=4,
    mid_block_type=None, down_block_types=("DownBlock2D",), up_block_types=("UpBlock2D",),
)  # fmt: skip
TASK = Diffusion(model=NET, image_shape=(8, 8, 1), schedule=dj.schedules.Cosine(), target="v")
TRANSFORMER = DiT(
    num_attention_heads=2, attention_head_dim=4, in_channels=1, num_layers=1, sample_size=4,
    num_embeds_ada_norm=3,
)  # fmt: skip
CLASSES = dj.conditions.Label(3, names=("red", "green", "blue"), drop=0.1)
STAGE = AutoencoderKL(
    in_channels=1, out_channels=1, block_out_channels=(8, 8), layers_per_block=1,
    norm_num_groups=4, latent_channels=1, down_block_types=("DownEncoderBlock2D",) * 2,
    up_block_types=("UpDecoderBlock2D",) * 2,
)  # fmt: skip


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return random_run(tmp_path_factory.mktemp("runs") / "pixels", TASK)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    """A first stage as the source of a run."""
    folder = tmp_path_factory.mktemp("stages") / "stage"
    image = jax.ShapeDtypeStruct((1, 8, 8, 1), jnp.float32)
    shapes = jax.eval_shape(STAGE.init, jax.random.key(0), image)["params"]
    dj.save_autoencoder_kl(STAGE, random_weights(shapes), folder)
    return runs.source_of(folder, "autoencoder")


def loaded(task, params, **frozen):
    """A run as `dj.load` gives it, of no folder."""
    parts = {"denoiser": Component(task.model, params), **frozen}
    config = runs.RunConfig(task, runs.Training())
    return runs.Run(RunFolder(pathlib.Path("nowhere")), config, 1, parts)


def index_of(folder):
    return json.loads((folder / "model_index.json").read_text())


def test_a_run_in_pixels(run, tmp_path):
    """Every file that there is, and each of them read back."""
    out = tmp_path / "new" / "out"
    assert dj.save_pipeline(run, out) == "DDPMPipeline"
    assert sorted(str(p.relative_to(out)) for p in out.rglob("*") if p.is_file()) == [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "unet/config.json",
        "unet/diffusion_pytorch_model.safetensors",
    ]
    assert [p.name for p in out.parent.iterdir()] == ["out"]
    assert index_of(out) == {
        "_class_name": "DDPMPipeline",
        "unet": ["diffusers", "UNet2DModel"],
        "scheduler": ["diffusers", "DPMSolverMultistepScheduler"],
    }
    model, params = dj.load_unet2d(out / "unet")
    assert model == NET.clone(sample_size=8, dtype=model.dtype)
    chex.assert_trees_all_equal(params, run["denoiser"].params)
    scheduler = dj.scheduler_from_config(out)
    assert (scheduler.process, scheduler.sampler) == (TASK.process, dj.samplers.DDIM())
    assert scheduler.limit == 1.0


def test_a_transformer_of_classes_in_latents(stage, tmp_path):
    """Labels from the last class to 1000 stand for none, in every block; the scale is the run's."""
    space = dj.spaces.Latents(1, 2, scale_factor=0.7)
    task = dataclasses.replace(
        TASK, model=TRANSFORMER, condition=CLASSES, space=space, autoencoder=stage
    )
    run, out = random_run(tmp_path / "run", task), tmp_path / "out"
    assert dj.save_pipeline(run, out) == "DiTPipeline"
    assert index_of(out)["id2label"] == {"0": "red", "1": "green", "2": "blue"}
    assert json.loads((out / "vae" / "config.json").read_text())["scaling_factor"] == 0.7
    model, params = dj.load_dit(out / "transformer")
    x, t = jax.random.normal(jax.random.key(0), (4, 4, 4, 1)), jnp.asarray(500.0)
    ours = TRANSFORMER.apply({"params": run["denoiser"].params}, x, t, jnp.asarray([0, 2, 3, 3]))
    theirs = model.apply({"params": params}, x, t, jnp.asarray([0, 2, 700, 1000]))
    np.testing.assert_allclose(theirs, ours, atol=1e-5)


def test_a_schedule_that_is_learnt_is_written_as_learnt(tmp_path):
    task = dataclasses.replace(TASK, schedule=dj.schedules.Monotone(width=4))
    params = random_weights(jax.eval_shape(lambda: task.init(jax.random.key(0), {})))
    out = tmp_path / "out"
    dj.save_pipeline(loaded(task, params["denoiser"]), out)
    schedule = dj.scheduler_from_config(out).process.schedule
    t = jnp.asarray([0.2, 0.7, 1.0])
    bound = task.process.bind(params["denoiser"]).schedule
    np.testing.assert_allclose(schedule.log_snr(t), bound.log_snr(t), rtol=1e-4)
    assert float(jnp.abs(bound.log_snr(t) - task.schedule.log_snr(t)).max()) > 0.1


def test_a_folder_that_exists_is_left_alone(run, tmp_path):
    (tmp_path / "kept").write_text("mine")
    for folder in (tmp_path, tmp_path / "kept"):
        with pytest.raises(dj.UserError, match="exists: choose another folder") as caught:
            dj.save_pipeline(run, folder)
        assert caught.value.option == "out"
    assert [p.name for p in tmp_path.iterdir()] == ["kept"]


def test_nothing_is_left_of_what_cannot_be_written(run, tmp_path, monkeypatch):
    """The scheduler comes after the network."""

    def full(path, text):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("diffjax.run_pipeline.write_text", full)
    with pytest.raises(dj.UserError, match=r"cannot write .*out: No space left on device"):
        dj.save_pipeline(run, tmp_path / "out")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"schedule": dj.schedules.Flow(), "target": "velocity"}, "no scheduler for schedule flow"),
        ({"schedule": dj.schedules.EDM(), "target": "edm"}, "no scheduler for schedule edm"),
        ({"target": "score", "schedule": dj.schedules.Linear()}, "no scheduler for target score"),
        ({"model": NET.clone(time_embedding_type="fourier")}, "a network that is told sigma"),
        ({"model": NET.clone(in_channels=3, out_channels=6), "learned_variance": True,
          "image_shape": (8, 8, 3)}, "a learnt variance with target v"),
        ({"model": NET.clone(out_channels=2), "learned_variance": True, "target": "eps",
          "schedule": dj.schedules.Linear()}, "a learnt variance of 3 channels, not of 1"),
        ({"model": NET.clone(cond_dim=4), "condition": dj.conditions.Vector(4)},
         r"tells a network vector\(dim=4\): only classes"),
        ({"model": CourseUNet(channels=(4, 4, 4), groups=(4, 4))}, "diffusers has no course_unet"),
        ({"model": TRANSFORMER, "condition": CLASSES}, "a dit of classes and in latents alone"),
        ({"image_shape": (8, 4, 1), "model": NET.clone(num_class_embeds=4), "condition": CLASSES},
         "ConsistencyModelPipeline draws squares, and x0 here is 8x4"),
    ],
)  # fmt: skip
def test_what_diffusers_cannot_hold(changed, message, tmp_path):
    run = loaded(dataclasses.replace(TASK, **changed), {})
    with pytest.raises(dj.UserError, match=message) as caught:
        dj.save_pipeline(run, tmp_path / "out")
    assert "\n" not in str(caught.value)
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("changed", "first_stage", "message"),
    [
        (
            {"space": dj.spaces.Latents(3, 2, shift_factor=0.5)}, VQModel(),
            "shifts the latents of codes: 0.5",
        ),
        ({"model": NET.clone(num_class_embeds=1002),
          "condition": dj.conditions.Label(1001, drop=0.1)}, STAGE,
         "takes label 1000 for none, and here it is a class"),
        ({}, VAE(), "no first stage vae: it has autoencoder_kl and vq"),
    ],
)  # fmt: skip
def test_latents_that_diffusers_cannot_hold(changed, first_stage, message, stage, tmp_path):
    latents = {"space": dj.spaces.Latents(1, 2), "autoencoder": stage}
    task = dataclasses.replace(TASK, **{**latents, **changed})
    run = loaded(task, {}, autoencoder=Component(first_stage, {}, stage))
    with pytest.raises(dj.UserError, match=message):
        dj.save_pipeline(run, tmp_path / "out")


@pytest.mark.parametrize("convolved", [True, False])
def test_an_exported_first_stage_has_the_shift(convolved, tmp_path):
    own = STAGE.clone(use_quant_conv=convolved, use_post_quant_conv=convolved)
    images = jax.random.uniform(jax.random.key(0), (2, 8, 8, 1), minval=-1, maxval=1)
    params = random_weights(jax.eval_shape(own.init, jax.random.key(0), images)["params"])
    model = NET.clone(norm_num_groups=1)
    space = dj.spaces.Latents(1, 2, scale_factor=0.7, shift_factor=0.4)
    task = dataclasses.replace(TASK, space=space, model=model, autoencoder=Source("here", "", ""))
    shapes = jax.eval_shape(lambda: task.init(jax.random.key(0), {}))["denoiser"]
    run = loaded(task, random_weights(shapes), autoencoder=Component(own, params))
    dj.save_pipeline(run, tmp_path / "out")
    stage, shifted = dj.load_autoencoder_kl(tmp_path / "out" / "vqvae")
    mean, log_variance = stage.apply({"params": shifted}, images, method="encode")
    wanted, spread = own.apply({"params": params}, images, method="encode")
    np.testing.assert_allclose(mean, wanted - 0.4, atol=1e-5)
    np.testing.assert_allclose(log_variance, spread, atol=1e-5)
    decoded = own.apply({"params": params}, wanted, method="decode")
    again = stage.apply({"params": shifted}, mean, method="decode")
    np.testing.assert_allclose(again, decoded, atol=1e-5)
    assert stage.scaling_factor == 0.7
    assert not stage.shift_factor


@pytest.mark.slow
def test_a_run_that_is_told_texts(tmp_path):
    """Our own pipeline draws from its folder what the run draws, guided and not."""
    run = text_run(tmp_path)
    assert dj.save_pipeline(run, tmp_path / "out") == "StableDiffusionPipeline"
    assert {p.name for p in (tmp_path / "out").iterdir()} == {
        "model_index.json", "scheduler", "text_encoder", "tokenizer", "unet", "vae",
    }  # fmt: skip
    pipe, texts = dj.load_pipeline(tmp_path / "out"), ["a red apple", "two big dogs, asleep"]
    for guidance in (1.0, 3.0):
        mine = run.sample(
            jax.random.key(0), num=2, steps=5, sampler="ddim", labels=texts, guidance=guidance
        )
        again = pipe.sample(texts, guidance=guidance, steps=5, key=jax.random.key(0))
        assert np.std(mine) > 0.05
        # Folders have betas, of which alpha_bar is a product of rounded numbers.
        assert np.abs(again - mine).max() * 255 / 2 < 0.1
