"""Whether an image was trained on, as far as a denoiser gives it away."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Key
from scipy import stats

from diffjax.conditions.base import Condition
from diffjax.errors import UserError
from diffjax.objectives.denoising import target_error
from diffjax.process import Process
from diffjax.randomness import fold_in, sample_keys
from diffjax.samplers.ddim import DDIM
from diffjax.typing import Apply, Cond, Images, Params

RATE = 0.01  # of non-members that may be taken for members
REPLICATES = 1000
CONFIDENCE = 0.95


def by_loss(
    process: Process, apply: Apply, condition: Condition, draws: int
) -> Callable[[Params, Key[Array, ""], dict[str, Array]], Float[Array, "B"]]:
    """(params, key, batch) -> the error of the target, over `draws` times and noises.

    These are the same for all images, so that scores differ by the image alone. Members' errors are
    lower (Yeom et al. 2018, of diffusion Carlini et al. 2023, sec. 5.2).
    """
    error = target_error(process, apply, condition)

    def score(params: Params, key: Key[Array, ""], batch: dict[str, Array]) -> Float[Array, "B"]:
        alike = jnp.repeat(key[None], len(batch["image"]))
        errors = lax.map(lambda i: error(params, fold_in(alike, i), batch), jnp.arange(draws))
        return errors.mean(0)

    return score


def by_steps(
    process: Process, apply: Apply, until: float = 0.1, steps: int = 10
) -> Callable[[Params, Images, Cond], Float[Array, "B"]]:
    """(params, x0, cond) -> SecMI's error of one step up and down again (Duan et al. 2023, eq. 9).

    DDIM walks x0 up to the time `until` in so many steps, and from there a step further and back;
    members come back nearer.
    """

    def score(params: Params, x0: Images, cond: Cond) -> Float[Array, "B"]:
        bound, ddim = process.bind(params), DDIM()
        denoise = bound.denoiser(apply, params, cond)
        gap = until / steps

        def walk(x: Images, t: Float[Array, ""], s: Float[Array, ""]) -> Images:
            unused = sample_keys(jax.random.key(0), 0, len(x))
            return ddim.step(bound.schedule, denoise, unused, x, (), t, s)[0]

        # The network knows no eps of a clean image: the walk begins at the first step.
        times = jnp.linspace(gap, until, steps)
        there, _ = lax.scan(lambda x, at: (walk(x, *at), None), x0, (times[:-1], times[1:]))
        further = walk(there, times[-1], times[-1] + gap)
        back = walk(further, times[-1] + gap, times[-1])
        return ((back - there) ** 2).sum((1, 2, 3))

    return score


class Attack(NamedTuple):
    """How well scores tell members from others, each with an interval of 95%.

    auc: how often a member's is the lower; 0.5 is chance. caught: the share of members below a
    threshold that RATE of other non-members lie below; chance is RATE. false: the share of the
    non-members that the threshold was not taken from.
    """

    auc: tuple[float, float, float]
    caught: tuple[float, float, float]
    false: float


def attack(
    members: Float[np.ndarray, "N"], others: Float[np.ndarray, "M"], seed: int = 0
) -> Attack:
    """What low scores give away. The threshold is taken from every second non-member alone.

    Intervals are of other draws of as many images (percentile bootstrap). Raises UserError for too
    few non-members to take a threshold from.
    """
    if len(others) < 2 / RATE:
        raise UserError(f"{len(others)} images that are held out: {2 / RATE:.0f} are needed")

    def measured(own: np.ndarray, known: np.ndarray, new: np.ndarray) -> tuple[float, float]:
        edge = np.quantile(known, RATE, method="lower")
        both = np.concatenate([known, new])
        below = stats.mannwhitneyu(both, own).statistic / (len(both) * len(own))
        return float(below), float((own < edge).mean())

    known, new = others[::2], others[1::2]
    rng = np.random.default_rng(seed)
    drawn = np.array([
        measured(*(rng.choice(side, len(side)) for side in (members, known, new)))
        for _ in range(REPLICATES)
    ])  # fmt: skip
    low, high = np.quantile(drawn, [(1 - CONFIDENCE) / 2, (1 + CONFIDENCE) / 2], axis=0)
    auc, caught = measured(members, known, new)
    edge = np.quantile(known, RATE, method="lower")
    return Attack(
        (auc, float(low[0]), float(high[0])),
        (caught, float(low[1]), float(high[1])),
        float((new < edge).mean()),
    )
