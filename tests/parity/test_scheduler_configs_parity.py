"""Whole walks by configs of diffusers' schedulers, step for step, beside the schedulers."""

import functools
import json
import os
import pathlib
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

import diffjax as dj  # noqa: E402
from diffjax.interop.schedulers.config import CLASSES  # noqa: E402
from diffjax.randomness import fold_in, normal, sample_keys  # noqa: E402
from diffjax.samplers.base import sample  # noqa: E402

SHAPE, MOST = (2, 3, 3, 2), 30
# Steps that divide a thousand, and that do not; with fewer than 15 the last orders are lower.
STEPS = (1, 2, 7, 8, MOST)
SD = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
V = {"prediction_type": "v_prediction"}
KARRAS, EXPONENTIAL = {"use_karras_sigmas": True}, {"use_exponential_sigmas": True}
TO_FIRST, ZERO = {"final_sigmas_type": "sigma_min"}, {"rescale_betas_zero_snr": True, **V}
SPACINGS = {
    "leading": {"timestep_spacing": "leading", "steps_offset": 1},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
}
BETAS = {
    "linear": {},
    "cosine": {"beta_schedule": "squaredcos_cap_v2", **V},
    "trained": {"trained_betas": [float(b) for b in np.linspace(0.001, 0.05, 100)]}
    | {"num_train_timesteps": 100},
}
# By the class's name without "Scheduler": its options beside those of the spacing and the betas.
OPTIONS = {
    "DDPM": [{}, {"variance_type": "fixed_small_log", "clip_sample_range": 0.5}, ZERO],
    "DDIM": [{"clip_sample": False, "set_alpha_to_one": False}, {}, {"thresholding": True}, ZERO],
    "EulerDiscrete": [{}, V, KARRAS, EXPONENTIAL, TO_FIRST, ZERO],
    "EulerAncestralDiscrete": [{}, V, ZERO],
    "HeunDiscrete": [{}, V, KARRAS, EXPONENTIAL, {"clip_sample": True}],
    "LMSDiscrete": [{}, V, KARRAS, EXPONENTIAL, {"prediction_type": "sample"}],
    "DPMSolverMultistep": [
        {"solver_order": 1},
        {},
        {"solver_type": "heun"},
        TO_FIRST,
        {"solver_order": 3, **TO_FIRST},
        {"solver_order": 3, "solver_type": "heun"},
        {"algorithm_type": "sde-dpmsolver++"},
        {"algorithm_type": "sde-dpmsolver++", "solver_type": "heun", **TO_FIRST},
        {"thresholding": True},
        ZERO,
    ],
    "UniPCMultistep": [
        {"solver_order": 1},
        {},
        {"solver_order": 3},
        {"solver_type": "bh1", **TO_FIRST},
        {"solver_order": 3, "lower_order_final": False, **TO_FIRST},
        ZERO,
    ],
    "DEISMultistep": [{"solver_order": 1}, {}, {"solver_order": 3}, V],
}  # fmt: skip
# Options that go with one spacing alone.
OTHERS = [
    ("PNDM", {"skip_prk_steps": True, **SD, **SPACINGS["leading"]}),
    ("PNDM", {"skip_prk_steps": True, "set_alpha_to_one": True, **SD, **V}),
    ("DDPM", {"variance_type": "fixed_large"}),
    ("DDPM", {"variance_type": "fixed_large", "timestep_spacing": "linspace", **V}),
    *((name, {**KARRAS, **SD}) for name in ("DPMSolverMultistep", "UniPCMultistep")),
    *(("DEISMultistep", {"solver_order": n, **KARRAS, **SD}) for n in (1, 2, 3)),
    ("EulerDiscrete", {**KARRAS, **SD, **V, "sigma_max": 10.0, "sigma_min": 0.1}),
    ("EulerDiscrete", {**KARRAS, **SD, **V, "timestep_type": "continuous"}),
    ("DPMSolverMultistep", {**BETAS["cosine"], "lambda_min_clipped": -5.1}),
    *((name, options) for name in ("DDIM", "EulerDiscrete", "UniPCMultistep")
      for options in BETAS.values()),
    ("EDMEuler", {}),
    ("EDMEuler", {"sigma_schedule": "exponential", "rho": 5.0, "sigma_data": 0.7}),
    *(("EDMDPMSolverMultistep", {"solver_order": n}) for n in (1, 2, 3)),
    ("FlowMatchEulerDiscrete", {}),
    ("FlowMatchEulerDiscrete", {"shift": 3.0}),
]  # fmt: skip
# The first options with every spacing, the others with one each.
CASES = [
    (name, {**SD, **spacing, **options})
    for name, choices in OPTIONS.items()
    for i, options in enumerate(choices)
    for spacing in ([*SPACINGS.values()] if i == 0 else [[*SPACINGS.values()][i % 3]])
] + OTHERS


def network(x, t, xp):
    """A stand-in that depends on everything a network sees: smooth, bounded, no training."""
    return xp.sin(1.7 * x + 0.003 * t) * 0.8 + 0.1 * xp.cos(5 * x)


def noise_of(step):
    """What our samplers draw in that step."""
    keys = sample_keys(jax.random.key(0), 0, SHAPE[0])
    return np.array(normal(fold_in(keys, step), SHAPE[1:]))


NOISE = functools.cache(noise_of)
LATENTS = np.random.default_rng(0).standard_normal(SHAPE).astype(np.float32)


def their_walk(name, options, steps, monkeypatch):
    """x after each of a pipeline's steps, over alpha where the scheduler's is."""
    scheduler = getattr(diffusers, f"{name}Scheduler")(**options)
    scheduler.set_timesteps(steps)
    module = sys.modules[type(scheduler).__module__]
    draws = iter(range(steps))
    monkeypatch.setattr(
        module, "randn_tensor", lambda *a, **k: torch.from_numpy(NOISE(next(draws))), raising=False
    )
    flow = name.startswith("FlowMatch")  # whose x is neither scaled nor over alpha
    x, states = torch.from_numpy(LATENTS) * (1 if flow else scheduler.init_noise_sigma), []
    for i, t in enumerate(scheduler.timesteps):
        seen = x if flow else scheduler.scale_model_input(x, t)
        output = torch.from_numpy(network(seen.numpy(), np.float32(t), np).astype(np.float32))
        x = scheduler.step(output, t, x).prev_sample
        exploding = name.endswith("Discrete") and not flow
        grown = (1 + scheduler.sigmas[i + 1] ** 2) ** 0.5 if exploding else 1
        states.append((x / grown).numpy())
    if name == "PNDM" and steps > 1:
        return states[1:]  # the first step is two calls
    if name == "HeunDiscrete":
        return states[1::2] + states[-1:]
    return states


@functools.cache
def compiled(config):
    """The scheduler, and its walk from latents along any times, as states and their number."""
    scheduler = dj.scheduler_from_config(json.loads(config))
    process = scheduler.process
    keys = sample_keys(jax.random.key(0), 0, SHAPE[0])

    def denoise(x, t):
        output = network(process.model_input(x, t), process.model_time(t), jnp)
        return process.to_prediction(output, x, t)

    if scheduler.limit is not None:
        denoise = dj.guidance.clip_x0(denoise, process.schedule, scheduler.limit)

    @jax.jit
    def walk(latents, times):
        x = scheduler.noise_scale(times[0]) * latents
        options = {"frames": MOST, "watched": SHAPE[0]}
        return sample(scheduler.sampler, process.schedule, denoise, keys, x, times, **options)[1]

    return scheduler, walk


def our_walk(name, options, steps):
    scheduler, walk = compiled(json.dumps({"_class_name": f"{name}Scheduler", **options}))
    times = scheduler.spacing.times(scheduler.process.schedule, steps)
    film = walk(LATENTS, np.pad(times, (0, MOST - steps), mode="edge"))
    return list(np.asarray(film)[MOST - np.count_nonzero(np.diff(times)) :])


def largest_difference(name, options, monkeypatch):
    """Of all states of walks of several numbers of steps, over the largest |x| of each."""
    gaps = []
    # Its single step by this law begins at the least noise.
    for steps in STEPS[options.get("sigma_schedule") == "exponential" :]:
        mine = our_walk(name, options, steps)
        theirs = their_walk(name, options, steps, monkeypatch)
        if len(mine) == len(theirs) - 1:  # a step without length, which does nothing
            theirs = theirs[: -2 if mine else 0] + theirs[-1:] * bool(mine)
        assert len(mine) == len(theirs)
        scale = max(np.abs(state).max() for state in theirs)
        gaps += [np.abs(a - b).max() / scale for a, b in zip(mine, theirs, strict=True)]
    return max(gaps)


@pytest.mark.parametrize(("name", "options"), CASES, ids=lambda v: v if isinstance(v, str) else "")
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_walks(name, options, monkeypatch):
    """diffusers' alpha_bar is float32: which shows from noise of sigma in the thousands."""
    endless = options in (BETAS["cosine"], {**options, **ZERO}) and name.startswith("Euler")
    bound = 5e-3 if endless else 1e-4
    assert largest_difference(name, options, monkeypatch) < bound


def test_every_class_is_held():
    assert {f"{name}Scheduler" for name, _ in CASES} == CLASSES.keys()


@pytest.mark.parametrize("name", CLASSES)
def test_every_option_has_diffusers_default(name):
    """An option that diffusers has and is missing here would be refused in files of today."""
    kind = CLASSES[name]
    ours = {field: getattr(kind(), field) for field in kind.__dataclass_fields__}
    theirs = {k: v for k, v in getattr(diffusers, name)().config.items() if not k.startswith("_")}
    assert ours == {**theirs, "disable_corrector": None} if "predict_x0" in theirs else theirs


@pytest.mark.parametrize("steps", range(1, 101))
def test_trailing_ddim_rounds_as_numpy_does(steps):
    """Halves go to the even step; of 61 steps diffusers makes one more, which begins below 0."""
    scheduler = dj.scheduler_from_config(
        {"_class_name": "DDIMScheduler", "timestep_spacing": "trailing"}
    )
    times = scheduler.spacing.times(scheduler.process.schedule, steps)
    theirs = diffusers.DDIMScheduler(timestep_spacing="trailing")
    theirs.set_timesteps(steps)
    np.testing.assert_array_equal(
        np.round(times[:-1] * np.float32(1000)) - 1, theirs.timesteps[:steps]
    )


def test_timesteps_of_the_miniature():
    """Those that diffusers' pipelines visited."""
    root = os.environ.get("DIFFJAX_DATA_DIR")
    folder = pathlib.Path(root or "") / "sd_mini" / "sd15"
    if root is None or not folder.is_dir():
        pytest.skip("DIFFJAX_DATA_DIR names no folder with sd_mini/")
    scheduler = dj.scheduler_from_config(folder)
    reference = np.load(folder / "reference.npz")
    times = scheduler.spacing.times(scheduler.process.schedule, int(reference["steps"]))
    visited = list(dict.fromkeys(reference["pndm/timesteps"].tolist()))
    np.testing.assert_allclose(times[:-1] * 1000 - 1, visited, atol=1e-3)
