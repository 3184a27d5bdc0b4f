"""A process of ours as the config of a scheduler of diffusers."""

from typing import Any

import jax.numpy as jnp
import numpy as np

from diffjax.errors import UserError
from diffjax.interop.schedulers.options import TARGETS
from diffjax.process import Process
from diffjax.schedules.base import Discrete, Schedule
from diffjax.schedules.cosine import Cosine
from diffjax.schedules.linear import Linear
from diffjax.schedules.scaled_linear import ScaledLinear

LEAST_RATIO = 2.0**-24  # of alpha_bars, which as 1 minus a float32 beta is not 0
PREDICTIONS = {target: name for name, target in TARGETS.items()}


def scheduler_config(process: Process, limit: float | None = None) -> dict[str, Any]:
    """What `scheduler_from_config` and diffusers read as DDIM of this process, x0 in its limit.

    Its times are those of `trailing`, rounded to training steps. It is DPM-Solver++ of order 1:
    that is DDIM, and unlike DDIMScheduler it keeps eps consistent with an x0 that is bounded. A
    schedule without a name in diffusers is a table. Raises UserError, naming it, for a target, a
    schedule, a form of time or a limit that diffusers' scheduler lacks.
    """
    _check(process, limit)
    schedule = process.schedule
    return {
        "_class_name": "DPMSolverMultistepScheduler",
        "algorithm_type": "dpmsolver++",
        "final_sigmas_type": "zero",
        "num_train_timesteps": schedule.steps,
        "prediction_type": PREDICTIONS[process.target],
        "rescale_betas_zero_snr": isinstance(schedule, Discrete) and schedule.zero_terminal,
        "solver_order": 1,
        "thresholding": limit is not None,
        "timestep_spacing": "trailing",
        "variance_type": "learned_range" if process.learned_variance else None,
        **_betas(schedule),
    }


def _check(process: Process, limit: float | None) -> None:
    schedule = process.schedule
    name = type(schedule).__module__.rpartition(".")[2]
    for lacks, what in (
        (process.consistent, "a consistency model"),
        (not schedule.variance_preserving, f"schedule {name}"),
        (process.target not in PREDICTIONS, f"target {process.target}"),
        (process.time_input != "index", f"a network that is told {process.time_input}"),
        (process.learned_variance and process.target != "eps",
         f"a learnt variance with target {process.target}"),
        (limit not in (None, 1.0), f"x0 within {limit}"),
    ):  # fmt: skip
        if lacks:
            raise UserError(f"diffusers has no scheduler for {what}")


def _betas(schedule: Schedule) -> dict[str, Any]:
    """The options that say which betas."""
    if isinstance(schedule, Linear | ScaledLinear):
        name = "linear" if isinstance(schedule, Linear) else "scaled_linear"
        ends = {"beta_start": schedule.beta_start, "beta_end": schedule.beta_end}
        return {"beta_schedule": name, **ends}
    zero = schedule.zero_terminal
    if schedule == Cosine(schedule.steps, zero_terminal_snr=zero):
        return {"beta_schedule": "squaredcos_cap_v2"}
    if isinstance(schedule, Discrete):
        return {"trained_betas": schedule.betas().tolist()}
    return {"trained_betas": _betas_of(schedule)}


def _betas_of(schedule: Schedule) -> list[float]:
    """Those of the chain that has the schedule's alpha_bar after each training step."""
    t = jnp.arange(1, schedule.steps + 1) / schedule.steps
    log_snr = np.asarray(schedule.log_snr(t), np.float64)
    ratios = np.diff(-np.log1p(np.exp(-log_snr)), prepend=0.0)
    betas: list[float] = (-np.expm1(np.maximum(ratios, np.log(LEAST_RATIO)))).tolist()
    return betas
