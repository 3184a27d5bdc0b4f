"""Runs that keep averages of their weights: taken up, averaged anew, and judged."""

import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from programs import RUN_FLAGS, check_refused, program

import diffjax as dj
from diffjax.data.images import scaled, to_uint8
from diffjax.errors import UserError
from diffjax.guidance.plan import Away, Guidance
from diffjax.metrics.checkerboard import checkerboard_energy

FLAGS = (*RUN_FLAGS, "--averages", "--checkpoint_every=2")


@pytest.fixture(scope="module")
def averaged(tmp_path_factory):
    """A run of eight steps."""
    folder = tmp_path_factory.mktemp("averages") / "run"
    done = program("ddpm", *FLAGS, "--steps=8", f"--workdir={folder}")
    assert done.returncode == 0, done.stderr
    return folder


@pytest.mark.slow
def test_taken_up_the_averages_are_the_same(averaged, tmp_path):
    run = shutil.copytree(averaged, tmp_path / "run")
    names = sorted(path.name for path in (run / "averages").iterdir())
    assert names == [f"step_0000000{step}.npz" for step in (2, 4, 6, 8)]
    shutil.rmtree(run / "checkpoints" / "8")
    (run / "averages" / names[-1]).unlink()
    done = program("ddpm", *FLAGS, "--steps=8", f"--workdir={run}")
    assert "going on from step 6" in done.stdout, done.stderr
    ours, theirs = (np.load(folder / "averages" / names[-1]) for folder in (run, averaged))
    assert ours.files == theirs.files
    for key in ours.files:
        np.testing.assert_array_equal(ours[key], theirs[key])


@pytest.mark.slow
def test_a_run_with_another_average(averaged):
    run = dj.load(averaged)
    short, long = (run.averaged(length)["denoiser"].params for length in (0.03, 0.25))
    assert jax.tree.structure(short) == jax.tree.structure(run["denoiser"].params)
    assert jax.tree.map(np.shape, short) == jax.tree.map(np.shape, run["denoiser"].params)
    assert any((a != b).any() for a, b in zip(*map(jax.tree.leaves, (short, long)), strict=True))
    images = run.averaged(0.1).sample(jax.random.key(0), num=2, steps=2)
    assert np.isfinite(images).all()


@pytest.mark.slow
def test_lengths_are_judged(averaged, judge, tmp_path):
    run = shutil.copytree(averaged, tmp_path / "run")
    flags = (f"--judge={judge}", "--metrics=averages", "--num=30", "--steps=2")
    done = program("evaluate", f"--run={run}", *flags, "--lengths=0.05,0.2")
    assert done.returncode == 0, done.stderr
    rows = json.loads((run / "evaluation.json").read_text())["averages"]["rows"]
    assert [row["length"] for row in rows] == [None, 0.05, 0.2]
    assert (run / "averages.png").stat().st_size > 0
    check_refused("--lengths=x", "evaluate", f"--run={run}", *flags, "--lengths=x")
    check_refused("at most 0.28", "evaluate", f"--run={run}", *flags, "--lengths=0.4")


@pytest.mark.slow
def test_guided_away_from_itself_as_it_was(averaged, judge, tmp_path):
    run = shutil.copytree(averaged, tmp_path / "run")
    flags = (f"--run={run}", f"--judge={judge}", "--num=30", "--steps=2")
    swept = (*flags, "--metrics=guidance", "--guidance=1,3", f"--weak={run}")
    done = program("evaluate", *swept, "--weak_step=4")
    assert done.returncode == 0, done.stderr
    plain, guided = json.loads((run / "evaluation.json").read_text())["guidance"]["rows"]
    whole = dj.load(run)
    early = whole.averaged(0.05, step=4)
    assert early.step == 4
    for row, scale in ((plain, 1.0), (guided, 3.0)):
        away = Away(jnp.full(30, scale), None, early["denoiser"].params)
        images = whole.sample(
            jax.random.key(0), num=30, steps=2, sampler="ddim", guidance=Guidance(away)
        )
        energy = checkerboard_energy(scaled(to_uint8(np.asarray(images)))).mean()
        np.testing.assert_allclose(row["checkerboard"], energy, rtol=1e-3)
    assert plain["checkerboard"] != guided["checkerboard"]
    check_refused("no averages of step 3", "evaluate", *swept, "--weak_step=3")
    check_refused("--weak_step does nothing", "evaluate", *flags, "--weak_step=4")
    check_refused("--guidance=1", "evaluate", *flags, f"--weak={run}")


def test_a_run_without(trained, judge):
    with pytest.raises(UserError, match="train with averages"):
        dj.load(trained).averaged(0.1)
    check_refused(
        "train with averages", "evaluate", f"--run={trained}", f"--judge={judge}",
        "--metrics=averages",
    )  # fmt: skip
    check_refused(
        "--metrics=averages", "evaluate", f"--run={trained}", f"--judge={judge}", "--lengths=0.1"
    )
