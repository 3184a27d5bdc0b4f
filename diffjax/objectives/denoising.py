"""Denoising score matching."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.objectives.noising import LossFn, Noised, Noising
from diffjax.process import Process, expand
from diffjax.time_laws.base import TimeLaw
from diffjax.time_laws.grid import Grid
from diffjax.typing import Apply, Images, Keys, Params
from diffjax.weightings.base import Weighting
from diffjax.weightings.simple import Simple


def denoising_loss(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 frozen, as the next
    weighting: Weighting = Simple(),  # noqa: B008
    times: TimeLaw = Grid(),  # noqa: B008
    offset_noise: float = 0.0,
    huber: float = 0.0,
) -> LossFn:
    """The weighted squared error of the process's own target; as it is, Ho et al.'s (2020, eq. 14).

    With a flow, target velocity and logit_normal times it is flow matching (Esser et al. 2024).
    huber=c makes the error pseudo-Huber, 2 c (sqrt(error² + c²) - c) a pixel: squared far below c
    and 2 c |error| far above. condition and offset_noise are Noising's. The batch holds `image`,
    x0, and what the condition reads.

    Raises UserError for what is out of range, and for a process whose variance is learnt.
    """
    if process.learned_variance:
        raise UserError(
            "the denoising loss teaches no variance: choose loss hybrid or vlb, "
            "or a process without learned_variance"
        )
    check_schedule(process, "denoising")
    check_huber(huber)
    noising = Noising(process, apply, times, condition, offset_noise)

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        noised = noising(params, keys, batch)
        return weighted_error(noised, noised.output, weighting, huber).mean(), {}

    return loss_fn


def weighted_error(
    noised: Noised, output: Images, weighting: Weighting, huber: float = 0.0
) -> Images:
    """The error of the target that `output` gives, weighted, and times the time's importance."""
    process, t = noised.process, noised.t
    error = (output - process.target_of(noised.x0, noised.eps, t)) ** 2
    if huber:
        # 2 c (sqrt(error + c²) - c), without the difference of two near equals.
        error = 2 * huber * error / (jnp.sqrt(error + huber**2) + huber)
    return expand(noised.importance * weighting.of_target(process, t), error) * error


def target_error(
    process: Process, apply: Apply, condition: Condition
) -> Callable[[Params, Keys, Mapping[str, Array]], Float[Array, "B"]]:
    """The mean squared error of the process's own target, a sample, at a time drawn from the grid.

    Nothing is hidden or weighted: what training would minimise, of images that it has not seen.
    """
    noising = Noising(process, apply, Grid(), condition, train=False)

    def error(params: Params, keys: Keys, batch: Mapping[str, Array]) -> Float[Array, "B"]:
        noised = noising(params, keys, batch)
        target = noised.process.target_of(noised.x0, noised.eps, noised.t)
        output = noised.output[..., : target.shape[-1]]  # a learnt variance lies behind it
        return ((output - target) ** 2).mean((1, 2, 3))

    return error


def check_huber(huber: float) -> None:
    """Raises UserError where it is below 0."""
    if not huber >= 0:
        raise UserError(f"huber={huber}: choose 0, the squared error, or above")


def check_schedule(process: Process, loss: str) -> None:
    """Raises UserError for a learnt schedule, which would learn to add whatever noise is easy."""
    if jax.eval_shape(process.schedule.init, jax.random.key(0)) is not None:
        raise UserError(
            f"the {loss} loss would teach schedule {type(process.schedule).__name__} the noise "
            "that is easiest: choose loss continuous_vlb, or a schedule that is not learnt"
        )
