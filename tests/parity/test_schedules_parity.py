"""Betas, noise levels and times beside those of diffusers' schedulers."""

import sys

import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # type: ignore[assignment]  # one that misfits torch would break it
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e '.[parity]'"
)
from diffusers.schedulers import AysSchedules  # noqa: E402
from scipy.special import expit  # noqa: E402

from diffjax.schedules.cosine import Cosine  # noqa: E402
from diffjax.schedules.edm import EDM  # noqa: E402
from diffjax.schedules.flow import Flow  # noqa: E402
from diffjax.schedules.linear import Linear  # noqa: E402
from diffjax.schedules.scaled_linear import ScaledLinear  # noqa: E402
from diffjax.spacings.align_your_steps import AlignYourSteps  # noqa: E402
from diffjax.spacings.exponential import Exponential  # noqa: E402
from diffjax.spacings.karras import Karras  # noqa: E402
from diffjax.spacings.leading import Leading  # noqa: E402
from diffjax.spacings.linspace import Linspace  # noqa: E402
from diffjax.spacings.trailing import Trailing  # noqa: E402

NAMES = {"linear": Linear, "scaled_linear": ScaledLinear, "squaredcos_cap_v2": Cosine}
LINEAR = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}
SCALED = {"beta_start": 8.5e-4, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.mark.parametrize("steps", [50, 1000])
@pytest.mark.parametrize("zero", [False, True])
@pytest.mark.parametrize("name", NAMES)
def test_betas(name, zero, steps):
    """Its `sigmoid` and `laplace` are left out, other formulas than the papers': see ours."""
    options = {"linear": LINEAR, "scaled_linear": SCALED}.get(name, {"beta_schedule": name})
    scheduler = diffusers.DDPMScheduler(steps, rescale_betas_zero_snr=zero, **options)
    alpha_bar = np.append(1.0, expit(NAMES[name](steps, zero_terminal_snr=zero).log_snr_table))
    betas = 1 - alpha_bar[1:] / alpha_bar[:-1]
    # Those of diffusers are float32, and once rescaled differences of float32 products.
    np.testing.assert_allclose(
        betas, scheduler.betas, rtol=1e-3 if zero else 1e-6, atol=1e-6 if zero else 1e-8
    )
    if not zero:
        np.testing.assert_allclose(
            NAMES[name](steps).betas(), scheduler.betas, rtol=2e-6, atol=6e-8
        )


@pytest.mark.parametrize("steps", [2, 10, 40])
@pytest.mark.parametrize("kind", ["karras", "exponential"])
@pytest.mark.parametrize(("ours", "options"), [(Linear(), LINEAR), (ScaledLinear(), SCALED)])
def test_euler_discrete(ours, options, kind, steps):
    """Noise levels, and the times that belong to them, from its own largest."""
    scheduler = diffusers.EulerDiscreteScheduler(
        timestep_spacing="linspace", **options, **{f"use_{kind}_sigmas": True}
    )
    scheduler.set_timesteps(steps)
    spacing = {"karras": Karras, "exponential": Exponential}[kind](sigma_max=1000.0)
    times = spacing.times(ours, steps)
    sigmas = np.append(ours.sigma_ve(jnp.asarray(times[:-1])), 0)
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=4e-4)
    np.testing.assert_allclose(times[:-1] * 1000 - 1, scheduler.timesteps, atol=0.05)


@pytest.mark.parametrize("steps", [2, 18, 40])
@pytest.mark.parametrize("kind", ["karras", "exponential"])
def test_edm_euler(kind, steps):
    scheduler = diffusers.EDMEulerScheduler(sigma_schedule=kind)
    scheduler.set_timesteps(steps)
    times = {"karras": Karras(), "exponential": Exponential()}[kind].times(EDM(), steps)
    sigmas = np.append(EDM().sigma_ve(jnp.asarray(times[:-1])), 0)
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=2e-5)


@pytest.mark.parametrize("shift", [1.0, 3.0, 0.5])
def test_flow_match_euler(shift):
    """As in training; and for sampling from the times pipelines give, where it shifts once."""
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=shift)
    t = jnp.arange(1000, 0, -1) / 1000
    np.testing.assert_allclose(Flow(shift=shift).alpha_sigma(t)[1], scheduler.sigmas, rtol=2e-6)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / 28, 28))
    times = jnp.asarray(Trailing().times(Flow(), 28))
    sigmas = Flow(shift=shift).alpha_sigma(times)[1]
    np.testing.assert_allclose(sigmas, scheduler.sigmas, rtol=2e-6)


def test_align_your_steps():
    table = AysSchedules["StableDiffusionSigmas"]
    assert AlignYourSteps().sigmas == tuple(table[:-1])
    times = AlignYourSteps().times(ScaledLinear(), 10)[:-1]
    sigmas = ScaledLinear().sigma_ve(jnp.asarray(times))
    np.testing.assert_allclose(sigmas, table[:-1], rtol=1e-4)
    index = AysSchedules["StableDiffusionTimesteps"]
    np.testing.assert_allclose(times * 1000 - 1, index, atol=1.0)


@pytest.mark.parametrize("steps", [1, 7, 10, 50, 333, 1000])
@pytest.mark.parametrize(
    ("name", "spacing"),
    [("leading", Leading()), ("linspace", Linspace()), ("trailing", Trailing())],
)
def test_timestep_spacing(name, spacing, steps):
    """diffusers rounds to training steps, which for `linspace` and `trailing` need not be whole."""
    scheduler = diffusers.DDIMScheduler(timestep_spacing=name, **LINEAR)
    scheduler.set_timesteps(steps)
    index = spacing.times(Linear(), steps)[:-1] * 1000 - 1
    if name == "linspace" and steps == 1:
        assert (index, scheduler.timesteps.item()) == (999, 0)  # its one step begins at no noise
        return
    np.testing.assert_allclose(
        index, scheduler.timesteps, atol=1e-3 if name == "leading" else 0.501
    )
    if 1000 % steps == 0 and name != "linspace":
        np.testing.assert_allclose(index, scheduler.timesteps, atol=1e-3)
