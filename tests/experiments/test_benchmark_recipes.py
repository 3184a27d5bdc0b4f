"""The recipes that the main job is set beside: their formulas, and that each trains and draws."""

import subprocess
import sys

import jax.numpy as jnp
import numpy as np
import pytest
from programs import ROOT, check_refused

from diffjax.schedules.sigmoid import Sigmoid
from experiments.measurements.other_recipes import RECIPES, noise_of, share


@pytest.mark.parity
def test_averages_are_as_long_as_in_diffusers_example():
    """Its options: inv_gamma 1, power 3/4, at most 0.9999."""
    why = "is not installed: pip install -e '.[parity]'"
    torch = pytest.importorskip("torch", reason=f"torch {why}")
    training_utils = pytest.importorskip("diffusers.training_utils", reason=f"diffusers {why}")
    theirs = training_utils.EMAModel(
        torch.nn.Linear(1, 1).parameters(), decay=0.9999, use_ema_warmup=True, inv_gamma=1.0,
        power=0.75,
    )  # fmt: skip
    ours = RECIPES["diffusers"].decay
    for step in (2, 10, 1000, 10**6):
        assert ours(step - 1) == pytest.approx(theirs.get_decay(step), abs=1e-9)


def test_the_sigmoid_schedule_is_jabris():
    betas = noise_of(RECIPES["denoising-diffusion-pytorch"])["trained_betas"]
    t = np.arange(1, 1001) / 1000
    log_snr = np.asarray(Sigmoid().log_snr(jnp.asarray(t[:990])))
    alpha_bar = np.cumprod(1 - betas)[:990]
    np.testing.assert_allclose(alpha_bar, 1 / (1 + np.exp(-log_snr)), atol=2e-4)


def test_rates():
    falling = RECIPES["diffusers"].rate
    assert falling(0, 0.0) == pytest.approx(1 / 500)
    assert falling(1000, 0.5) == pytest.approx(0.5)
    assert falling(1000, 1.0) == pytest.approx(0.0)


@pytest.mark.parity
@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_for_as_long_as_it_may_and_draws(tmp_path, name):
    out = tmp_path / "drawn.npz"
    module = [sys.executable, "-m", "experiments.measurements.torch_recipes"]
    flags = [f"--recipe={name}", "--seconds=40", "--num=3", "--steps=2", f"--out={out}"]
    done = subprocess.run([*module, *flags], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    found = np.load(out)
    assert int(found["steps"]) > 0
    for eta in ("eta_0", "eta_1"):
        assert found[eta].shape == (3, 28, 28, 1)
        assert found[eta].dtype == np.uint8
    assert np.any(found["eta_0"] != found["eta_1"])


@pytest.mark.parity
def test_refused(tmp_path):
    check_refused("recipes needs --judge", "benchmark", "recipes", f"--out={tmp_path}/out")
    assert not (tmp_path / "out").exists()


def test_the_nearest_of_the_others_counts():
    rows = [
        {"side": side, "frechet": value}
        for side, values in {"diffjax": (9, 10, 30), "a": (50, 20, 30), "b": (40, 41, 5)}.items()
        for value in values
    ]
    assert share(rows) == pytest.approx(10 / 30)
