"""Every sampler that diffusers has too, step for step, beside its schedulers."""

import functools
import itertools
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
from diffjax.samplers.deis import DEIS  # noqa: E402
from diffjax.samplers.dpmpp_2m import DPMpp2M  # noqa: E402
from diffjax.samplers.dpmpp_2m_sde import DPMpp2MSDE  # noqa: E402
from diffjax.samplers.dpmpp_3m_sde import DPMpp3MSDE  # noqa: E402
from diffjax.samplers.euler import Euler  # noqa: E402
from diffjax.samplers.euler_ancestral import EulerAncestral  # noqa: E402
from diffjax.samplers.heun import Heun  # noqa: E402
from diffjax.samplers.lms import LMS  # noqa: E402
from diffjax.samplers.pndm import PNDM  # noqa: E402
from diffjax.samplers.unipc import UniPC  # noqa: E402
from diffjax.schedules.cosine import Cosine  # noqa: E402
from diffjax.schedules.linear import Linear  # noqa: E402
from diffjax.spacings.karras import Karras  # noqa: E402
from diffjax.spacings.leading import Leading  # noqa: E402
from diffjax.spacings.linspace import Linspace  # noqa: E402
from diffjax.spacings.trailing import Trailing  # noqa: E402

SHAPE = (2, 6, 6, 3)
SCHEDULES = {"linear": Linear(), "squaredcos_cap_v2": Cosine()}
TARGETS = {"epsilon": "eps", "sample": "x0", "v_prediction": "v"}


def network(x, t, xp=np):
    """A stand-in that depends on everything a network sees: smooth, bounded, no training."""
    return xp.sin(1.7 * x + 0.003 * t) * 0.8 + 0.1 * xp.cos(5 * x)


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
    theirs, mine, memory = (
        torch.from_numpy(x.copy()),
        jnp.asarray(x),
        ours.init(jnp.asarray(x), jnp.asarray(1000)),
    )

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


SPACINGS = {
    "leading": Leading(),
    "trailing": Trailing(),
    "linspace": Linspace(),
    "karras": Karras(sigma_max=1e3),
}
BETAS = {"beta_start": 1e-4, "beta_end": 0.02, "beta_schedule": "linear"}


def exact_sigmas(times):
    """sigma / alpha at times in (0, 1], and 0 at the last, in float64."""
    alpha_bar = np.cumprod(1 - np.linspace(1e-4, 0.02, 1000))
    log_snr = np.log(alpha_bar) - np.log1p(-alpha_bar)
    index = times[:-1].astype(np.float64) * 1000 - 1
    return np.append(np.exp(-np.interp(index, np.arange(1000), log_snr) / 2), 0.0)


def at_times(scheduler, times, repeats=1):
    """A scheduler with sigmas that walks down our times, between whole indices too."""
    scheduler.set_timesteps(len(times) - 1)
    sigmas = exact_sigmas(times)
    inner = np.repeat(sigmas[1:-1], repeats)
    scheduler.sigmas = torch.from_numpy(np.concatenate([sigmas[:1], inner, sigmas[-1:]]))
    index = times[:-1].astype(np.float64) * 1000 - 1
    index = np.append(index[0], np.repeat(index[1:], repeats))
    scheduler.timesteps = torch.from_numpy(index)
    scheduler._step_index = 0
    return scheduler


@functools.cache
def our_step(ours, target):
    process = Process(Linear(), target)

    def denoise(x, t):
        return process.to_prediction(network(x, process.model_time(t), jnp), x, t)

    return jax.jit(functools.partial(ours.step, process.schedule, denoise))


def our_states(ours, target, times, x, keys):
    """x after each of our steps, in float32."""
    x, memory, states = jnp.asarray(x), ours.init(jnp.asarray(x), jnp.asarray(1000)), []
    for i, (t, s) in enumerate(itertools.pairwise(times)):
        x, memory = our_step(ours, target)(
            fold_in(keys, i), x, memory, jnp.asarray(t), jnp.asarray(s)
        )
        states.append(np.asarray(x))
    return states


def their_states(scheduler, times, x, keys, exploding, calls, monkeypatch):
    """x after each of diffusers' steps, in float64; a step makes that many of `calls`."""
    sigmas = exact_sigmas(times)
    grown = np.sqrt(1 + sigmas**2) if exploding else np.ones_like(sigmas)
    theirs, states = torch.from_numpy(np.asarray(x, np.float64) * grown[0]), []
    where = [i for i, count in enumerate(calls) for _ in range(count)]
    for call, i in enumerate(where):
        # The model's time is that of the state it sees, which may have come to the next time.
        index = float(scheduler.timesteps[call])
        level = np.argmin(np.abs(times[:-1] * 1000 - 1 - index))
        noise = torch.from_numpy(np.array(normal(fold_in(keys, i), SHAPE[1:]), np.float64))
        for module in ("scheduling_euler_ancestral_discrete", "scheduling_dpmsolver_multistep"):
            name = f"diffusers.schedulers.{module}.randn_tensor"
            monkeypatch.setattr(name, lambda *a, noise=noise, **k: noise)
        scheduler.is_scale_input_called = True
        output = torch.from_numpy(network(theirs.numpy() / grown[level], index))
        timestep = scheduler.timesteps[call]
        theirs = scheduler.step(output, timestep, theirs).prev_sample
        if call + 1 == len(where) or where[call + 1] != i:
            states.append(theirs.numpy() / grown[i + 1])
    return states


def assert_equal_walks(mine, theirs):
    assert len(mine) == len(theirs)
    for i, (a, b) in enumerate(zip(mine, theirs, strict=True)):
        assert np.abs(a - b).max() < 1e-4 * np.abs(b).max(), i


def start(times):
    keys = sample_keys(jax.random.key(0), 0, SHAPE[0])
    return keys, np.asarray(normal(fold_in(keys, 10**6), SHAPE[1:]))


def solver(kind, **options):
    return getattr(diffusers, kind)(**BETAS, prediction_type="v_prediction", **options)


# Ours, theirs, whether their x is ours over alpha, and how many of our last steps differ.
WITH_SIGMAS = {
    "euler": (Euler(), "EulerDiscreteScheduler", {}, True, 0),
    "euler_ancestral": (EulerAncestral(), "EulerAncestralDiscreteScheduler", {}, True, 0),
    "heun": (Heun(), "HeunDiscreteScheduler", {}, True, 0),
    "lms": (LMS(), "LMSDiscreteScheduler", {}, True, 0),
    "dpmpp_2m": (DPMpp2M(), "DPMSolverMultistepScheduler", {"lower_order_final": False}, False, 0),
    # On the SDE diffusers has another sign than k-diffusion, from which it comes, in the last term:
    # that is held against k-diffusion's formula in test_k_diffusion_parity.py.
    "dpmpp_3m": (
        DPMpp3MSDE(eta=0.0),
        "DPMSolverMultistepScheduler",
        {"solver_order": 3, "solver_type": "heun", "lower_order_final": False},
        False,
        0,
    ),
    # diffusers ends DEIS at the first training step's noise, having no limit of its formula at 0.
    "deis_2": (
        DEIS(2), "DEISMultistepScheduler", {"solver_order": 2, "lower_order_final": False}, False, 1
    ),
    "deis_3": (
        DEIS(3), "DEISMultistepScheduler", {"solver_order": 3, "lower_order_final": False}, False, 1
    ),
    "unipc_1": (UniPC(1), "UniPCMultistepScheduler", {"solver_order": 1}, False, 0),
    "unipc_2": (UniPC(2), "UniPCMultistepScheduler", {"solver_order": 2}, False, 0),
    # diffusers lowers the order over the last two steps, the paper (algorithm 1) nowhere.
    "unipc_3": (UniPC(3), "UniPCMultistepScheduler", {"solver_order": 3}, False, 2),
}  # fmt: skip


@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("spacing", SPACINGS)
@pytest.mark.parametrize("name", WITH_SIGMAS)
def test_solvers_with_sigmas(name, spacing, steps, monkeypatch):
    ours, kind, options, exploding, differ = WITH_SIGMAS[name]
    times = SPACINGS[spacing].times(Linear(), steps)
    heun = isinstance(ours, Heun)
    scheduler = at_times(solver(kind, **options), times, repeats=2 if heun else 1)
    keys, x = start(times)
    calls = [2] * (steps - 1) + [1] if heun else [1] * steps
    theirs = their_states(scheduler, times, x, keys, exploding, calls, monkeypatch)
    mine = our_states(ours, "v", times, x, keys)
    last = max(steps - differ, 0)
    assert_equal_walks(mine[:last], theirs[:last])


@pytest.mark.parametrize("steps", [1, 5, 10, 50])
@pytest.mark.parametrize("spacing", ["leading", "trailing"])
def test_pndm(spacing, steps, monkeypatch):
    """On even steps; on uneven ones diffusers keeps weights that are right on even ones alone."""
    scheduler = diffusers.PNDMScheduler(
        **BETAS, skip_prk_steps=True, set_alpha_to_one=True, timestep_spacing=spacing
    )
    scheduler.set_timesteps(steps)
    in_float64(scheduler)
    scheduler.final_alpha_cumprod = torch.tensor(1.0, dtype=torch.float64)
    times = SPACINGS[spacing].times(Linear(), steps)
    keys, x = start(times)
    calls = [2] + [1] * (steps - 1) if steps > 1 else [1]
    theirs = their_states(scheduler, times, x, keys, False, calls, monkeypatch)
    mine = our_states(PNDM(), "eps", times, x, keys)
    # The last of leading's steps is the only short one.
    last = steps - 1 if spacing == "leading" and steps > 1 else steps
    assert_equal_walks(mine[:last], theirs[:last])
