"""A first stage, diffusion in its latents, and what is drawn of them, as a user runs them."""

import json

import numpy as np
import pytest
from programs import check_refused, program

from diffjax import runs

STAGE = (
    "--model=vae(latent_channels=4,channels=(8,16))", "--batch_size=8", "--steps=4",
    "--log_every=2", "--checkpoint_every=2", "--eval_every=4", "--warmup_steps=2",
)  # fmt: skip
# Latents are one place of four channels.
NET = (
    "--model=unet(block_out_channels=(8,),layers_per_block=1,norm_num_groups=4,mid_block_type=None,"
    "down_block_types=('DownBlock2D',),up_block_types=('UpBlock2D',))"
)
DIFFUSION = (
    NET, "--num_classes=data", "--cond_drop=0.1", "--schedule=cosine", "--target=v",
    "--batch_size=8", "--steps=4", "--log_every=2", "--checkpoint_every=2", "--sample_every=4",
    "--sample_steps=3", "--num_samples=4", "--warmup_steps=2",
)  # fmt: skip


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """The folders of a first stage and of a run in its latents, the run's flags, what was said."""
    folder = tmp_path_factory.mktemp("latents")
    stage, run, cache = folder / "stage", folder / "run", folder / "cache"
    done = program("vae", *STAGE, f"--workdir={stage}")
    assert done.returncode == 0, done.stderr
    flags = (*DIFFUSION, f"--first_stage={stage}", f"--cache_dir={cache}", f"--workdir={run}")
    done = program("latent_diffusion", *flags)
    assert done.returncode == 0, done.stderr
    return stage, run, flags, done.stdout


def test_a_first_stage_is_measured_and_shown(trained):
    stage, *_ = trained
    line = json.loads((stage / "held_out.jsonl").read_text().splitlines()[-1])
    assert {"psnr", "ssim", "bits_per_dim", "latents_bits"} < line.keys()
    assert (stage / "samples" / "step_00000004.png").stat().st_size > 500


def test_latents_are_learnt_scaled_and_drawn(trained, tmp_path):
    stage, run, _, said = trained
    assert "computing latents of 4,500 records" in said
    loaded = runs.load(run)
    assert loaded.task.shape == (1, 1, 4)
    assert loaded.task.space.scale_factor > 0
    assert loaded["autoencoder"].source.path == str(stage)
    out = tmp_path / "drawn"
    done = program("sample", f"--run={run}", "--num=3", "--steps=2", "--labels=1", f"--out={out}")
    assert done.returncode == 0, done.stderr
    images = np.load(out / "samples.npz")["images"]
    assert images.shape == (3, 28, 28, 1)
    assert len(np.unique(images)) > 10


def test_a_first_stage_that_has_changed_is_refused(trained, tmp_path):
    _, run, flags, _ = trained
    other = tmp_path / "other"
    assert program("vae", *STAGE, "--seed=1", f"--workdir={other}").returncode == 0
    changed = [flag for flag in flags if not flag.startswith("--first_stage")]
    check_refused(
        "has other weights than the first stage of the run",
        "latent_diffusion",
        *changed,
        f"--first_stage={other}",
    )
    assert runs.load(run).step == 4


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ((), "--first_stage is missing"),
        (("--first_stage={stage}", "--image_size=16"), "takes images of 28x28"),
    ],
)
def test_refused(trained, flags, message):
    given = (flag.format(stage=trained[0]) for flag in flags)
    check_refused(message, "latent_diffusion", NET, *given)


def test_options_that_would_do_nothing_are_refused(trained):
    check_refused("does nothing without --adversarial", "vae", "--discriminator_rate=1")
    flags = ("--metrics=reconstruction", "--figures=kernel", f"--run={trained[0]}")
    check_refused("--figures does nothing without --extractor", "evaluate", *flags)


@pytest.mark.slow
def test_the_rest_of_the_core_works_in_latents(trained, tmp_path):
    """Resuming, editing, held-out figures, distillation."""
    stage, run, flags, _ = trained
    done = program("latent_diffusion", *flags, "--steps=6")
    assert done.returncode == 0, done.stderr
    assert "latents: " in done.stdout
    assert "going on from step 4 of 6" in done.stdout
    init = tmp_path / "init.npy"
    given = np.random.RandomState(0).randint(0, 256, (2, 28, 28, 1), np.uint8)
    np.save(init, given)
    along = ("--negative=1", "--labels=2")
    for task, flags in (("img2img", ()), ("interpolate", ()), ("direction", along)):
        done = program(
            "sample", f"--run={run}", f"--task={task}", f"--init={init}", "--steps=4",
            f"--out={tmp_path / task}", *flags,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
    for run_folder, metric in ((run, "loss"), (stage, "reconstruction")):
        done = program("evaluate", f"--run={run_folder}", f"--metrics={metric}", "--num=20")
        assert done.returncode == 0, done.stderr
        assert metric in json.loads((run_folder / "evaluation.json").read_text())
    done = program(
        "distill", f"--teacher={run}", "--student_steps=2", "--steps=2", "--batch_size=8",
        "--log_every=1", "--checkpoint_every=2", "--sample_every=2", "--num_samples=2",
        f"--cache_dir={tmp_path}", f"--workdir={tmp_path / 'student'}",
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
