"""DDPM, DDIM and DPM-Solver++, step for step, beside diffusers' schedulers."""

import sys

import jax
import jax.numpy as jnp
import numpy as np
import pytest

pytestmark = pytest.mark.parity
torch = pytest.importorskip("torch", reason="torch is not installed: pip install -e '.[parity]'")
sys.modules["torchvision"] = None  # type: ignore[assignment]  # one that misfits torch would break it
diffusers = pytest.importorskip(
    "diffusers", reason="diffusers is not installed: pip install -e '.[parity]'"
)

from diffjax.guidance import clip_x0  # noqa: E402
from diffjax.process import Process  # noqa: E402
from diffjax.randomness import fold_in, normal, sample_keys  # noqa: E402
from diffjax.samplers.ddim import DDIM  # noqa: E402
from diffjax.samplers.ddpm import DDPM  # noqa: E402
from diffjax.samplers.dpmpp_2m import DPMpp2M  # noqa: E402
from diffjax.samplers.dpmpp_2m_sde import DPMpp2MSDE  # noqa: E402
from diffjax.schedules.cosine import Cosine  # noqa: E402
from diffjax.schedules.linear import Linear  # noqa: E402

SHAPE = (2, 6, 6, 3)
SCHEDULES = {"linear": Linear(), "squaredcos_cap_v2": Cosine()}
TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def network(x, t):
    """A stand-in that depends on everything a network sees: smooth, bounded, no training."""
    return np.sin(1.7 * x + 0.003 * t) * 0.8 + 0.1 * np.cos(5 * x)


def in_float64(scheduler):
    """diffusers' formulas on an exact table: its float32 product is 1.7e-4 off in 1 - alpha_bar."""
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=torch.float64)
    if scheduler.config.beta_schedule == "squaredcos_cap_v2":
        angle = (torch.linspace(0, 1, 1001, dtype=torch.float64) + 0.008) / 1.008 * torch.pi / 2
        betas = (1 - (angle[1:].cos() / angle[:-1].cos()) ** 2).clamp(max=0.999)
    assert torch.allclose(betas.float(), scheduler.betas, rtol=1e-4)
    scheduler.betas, scheduler.alphas = betas, 1 - betas
    scheduler.alphas_cumprod = torch.cumprod(1 - betas, 0)


def walk_both(ours, scheduler, process, steps, clip):
    """Both samplers from one noise, with the same noise at each step; the gap after each step."""
    scheduler.set_timesteps(steps)
    in_float64(scheduler)
    index = scheduler.timesteps.numpy()
    # diffusers' DDIM goes back by T // N, also where the next of its times lies elsewhere.
    before = index - 1000 // steps if isinstance(ours, DDIM) else np.append(index[1:], -1)
    pairs = np.stack([index + 1, np.maximum(before + 1, 0)], 1).astype(np.float32) / 1000
    keys = sample_keys(jax.random.key(0), 0, SHAPE[0])
    x = np.asarray(normal(fold_in(keys, 10**6), SHAPE[1:]))
    theirs, mine, gaps = torch.from_numpy(x.copy()), jnp.asarray(x), []

    def denoise(x, t):
        output = jnp.asarray(network(np.asarray(x), float(process.model_time(t))))
        return process.to_prediction(output, x, t)

    denoise = clip_x0(denoise, process.schedule) if clip else denoise
    for i, step_index in enumerate(index):
        step_keys = fold_in(keys, i)
        noise = torch.from_numpy(np.array(normal(step_keys, SHAPE[1:])))
        with pytest.MonkeyPatch.context() as patch:
            for module in ("scheduling_ddpm", "scheduling_ddim"):
                name = f"diffusers.schedulers.{module}.randn_tensor"
                patch.setattr(name, lambda *a, noise=noise, **k: noise)
            output = torch.from_numpy(network(theirs.numpy(), float(step_index)))
            options = {}
            if isinstance(ours, DDIM):
                options = {"eta": ours.eta, "use_clipped_model_output": clip}
            theirs = scheduler.step(output, int(step_index), theirs, **options).prev_sample
        t, s = (jnp.asarray(v) for v in pairs[i])
        mine, _ = ours.step(process.schedule, denoise, step_keys, mine, (), t, s)
        scale = float(theirs.abs().max())
        gaps.append(float(np.abs(np.asarray(mine) - theirs.numpy()).max()) / scale)
    return gaps


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("beta", SCHEDULES)
@pytest.mark.parametrize("eta", [0.0, 0.6, 1.0])
def test_ddim(steps, spacing, beta, eta):
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule=beta,
        timestep_spacing=spacing,
        prediction_type="epsilon" if beta == "linear" else "v_prediction",
        clip_sample=True,
        set_alpha_to_one=True,
    )
    # The cosine ends at alpha = 5e-5: there an eps gives x0 to three digits in any float32 code.
    process = Process(SCHEDULES[beta], "eps" if beta == "linear" else "v")
    gaps = walk_both(DDIM(eta), scheduler, process, steps, clip=True)
    assert max(gaps) < 1e-4


@pytest.mark.parametrize("target", TARGETS)
@pytest.mark.parametrize("clip", [True, False])
def test_ddim_targets(target, clip):
    scheduler = diffusers.DDIMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing="trailing",
        prediction_type=target,
        clip_sample=clip,
    )
    process = Process(Linear(), TARGETS[target])
    assert max(walk_both(DDIM(0.3), scheduler, process, 20, clip)) < 1e-4


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize(("variance", "name"), [("small", "fixed_small"), ("large", "fixed_large")])
@pytest.mark.parametrize("target", TARGETS)
def test_ddpm(steps, spacing, variance, name, target):
    scheduler = diffusers.DDPMScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing=spacing,
        variance_type=name,
        prediction_type=target,
        clip_sample=True,
    )
    process = Process(Linear(), TARGETS[target])
    gaps = walk_both(DDPM(variance), scheduler, process, steps, clip=True)
    if (variance, spacing) == ("large", "trailing"):
        # Into t = 0 the paper adds no noise (algorithm 2, line 3); diffusers does, unless t = 1/T.
        gaps = gaps[:-1]
    assert max(gaps, default=0) < 1e-4


@pytest.mark.parametrize("ours", [DDIM(0.0), DDIM(1.0), DDPM("small")], ids=str)
def test_all_thousand_steps(ours):
    kind = diffusers.DDIMScheduler if isinstance(ours, DDIM) else diffusers.DDPMScheduler
    scheduler = kind(beta_start=1e-4, beta_end=0.02, beta_schedule="linear", clip_sample=True)
    assert max(walk_both(ours, scheduler, Process(Linear()), 1000, clip=True)) < 1e-4


@pytest.mark.parametrize("steps", [1, 10, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("sde", [False, True])
def test_dpmpp_2m(steps, spacing, sde):
    scheduler = diffusers.DPMSolverMultistepScheduler(
        beta_start=1e-4,
        beta_end=0.02,
        beta_schedule="linear",
        timestep_spacing=spacing,
        prediction_type="v_prediction",
        algorithm_type="sde-dpmsolver++" if sde else "dpmsolver++",
        final_sigmas_type="zero",
    )
    scheduler.set_timesteps(steps)
    index = scheduler.timesteps.numpy()
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))[index]  # its own is a float32 product
    scheduler.sigmas = torch.from_numpy(np.append(np.sqrt(1 / alpha_bar - 1), 0.0))
    times = (np.append(index, -1) + 1).astype(np.float32) / 1000
    ours, process = (DPMpp2MSDE() if sde else DPMpp2M()), Process(Linear(), "v")
    keys = sample_keys(jax.random.key(0), 0, SHAPE[0])
    x = np.asarray(normal(fold_in(keys, 10**6), SHAPE[1:]))
    theirs, mine, memory = torch.from_numpy(x.copy()), jnp.asarray(x), ours.init(jnp.asarray(x))

    def denoise(x, t):
        output = jnp.asarray(network(np.asarray(x), float(process.model_time(t))))
        return process.to_prediction(output, x, t)

    for i, step_index in enumerate(index):
        step_keys = fold_in(keys, i)
        noise = torch.from_numpy(np.array(normal(step_keys, SHAPE[1:])))
        output = torch.from_numpy(network(theirs.numpy(), float(step_index)))
        theirs = scheduler.step(
            output, int(step_index), theirs, variance_noise=noise
        ).prev_sample.float()
        t, s = (jnp.asarray(v) for v in times[i : i + 2])
        mine, memory = ours.step(process.schedule, denoise, step_keys, mine, memory, t, s)
        gap = float(np.abs(np.asarray(mine) - theirs.numpy()).max())
        assert gap < 1e-4 * float(theirs.abs().max()), i
