"""The variational bound as something to train on, in nats a dimension."""

from collections.abc import Mapping

import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Float

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.objectives.denoising import LossFn, check_huber, check_schedule, weighted_error
from diffjax.objectives.noising import Noised, Noising
from diffjax.process import Process, expand
from diffjax.randomness import fold_in, normal
from diffjax.time_laws.base import TimeLaw
from diffjax.time_laws.grid import Grid
from diffjax.time_laws.uniform import Uniform
from diffjax.typing import Apply, Keys, Params, Prediction
from diffjax.variational_terms import last_std, levels_nll, prior_kl, step_kl
from diffjax.weightings.base import Weighting
from diffjax.weightings.simple import Simple
from diffjax.weightings.variational import Variational

BOUND_SHARE = 1e-3  # lambda of Nichol & Dhariwal (2021, eq. 16)


def vlb_loss(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 frozen, as the next
    times: TimeLaw = Grid(),  # noqa: B008
) -> LossFn:
    """The bound on -log p(8-bit image), T times a drawn term of it (Ho et al. 2020, eq. 5).

    Steps have the posterior's variance, or the one that the process learns. Options as in
    denoising_loss. Raises UserError for times that are no fair draw.
    """
    check_schedule(process, "vlb")
    _check_fair(times, "vlb")
    noising = Noising(process, apply, times, condition, on_grid=True)

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        noised = noising(params, keys, batch)
        prediction = noised.process.to_prediction(noised.output, noised.x, noised.t)
        prior = prior_kl(process.schedule, noised.x0, jnp.ones(())) / noised.x0[0].size
        return jnp.mean(noised.importance * drawn_term(noised, prediction) + prior), {}

    return loss_fn


def hybrid_loss(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 frozen, as the next
    weighting: Weighting = Simple(),  # noqa: B008
    times: TimeLaw = Grid(),  # noqa: B008
    huber: float = 0.0,
) -> LossFn:
    """The denoising loss and a thousandth of the bound, which teaches the variance alone.

    That is L_hybrid (Nichol & Dhariwal 2021, eq. 16). Options as in denoising_loss. Raises
    UserError for a process whose variance is not learnt, and for times that are no fair draw.
    """
    if not process.learned_variance:
        raise UserError(
            "the hybrid loss teaches a variance: choose loss denoising or vlb, "
            "or a process with learned_variance"
        )
    check_schedule(process, "hybrid")
    check_huber(huber)
    _check_fair(times, "hybrid")
    noising = Noising(process, apply, times, condition, on_grid=True)

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        noised = noising(params, keys, batch)
        mean, raw = jnp.split(noised.output, 2, axis=-1)
        # The bound's own pull on the mean would be lost among its noise.
        held = jnp.concatenate([lax.stop_gradient(mean), raw], axis=-1)
        prediction = noised.process.to_prediction(held, noised.x, noised.t)
        bound = jnp.mean(noised.importance * drawn_term(noised, prediction))
        return weighted_error(noised, mean, weighting, huber).mean() + BOUND_SHARE * bound, {}

    return loss_fn


def continuous_vlb_loss(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 frozen, as the next
    times: TimeLaw = Uniform(),  # noqa: B008
) -> LossFn:
    """The bound with infinitely many steps down to t = 1/T (Kingma et al. 2021, section 4).

    -1/2 d log_snr/dt |eps - predicted eps|², the prior, and the image's own value of 256 told from
    its noised self at 1/T. A learnt schedule trains on this loss alone: its ends on the bound, and
    the way between them, which the bound does not depend on, on the square of the bound's terms, so
    that their variance is least (ibid., appendix I.2). Options as in denoising_loss. Raises
    UserError for times that are no fair draw from all of (0, 1], and for a process whose variance
    is learnt.
    """
    _check_fair(times, "continuous_vlb")
    if times.on_grid:
        raise UserError(
            "the continuous_vlb loss needs times between those of a grid: "
            "choose times uniform or importance"
        )
    if process.learned_variance:
        raise UserError(
            "the continuous_vlb loss has no variance to learn: choose loss hybrid or vlb, "
            "or a process without learned_variance"
        )
    noising = Noising(process, apply, times, condition)

    def bound(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, "B"], Float[Array, "B"]]:
        """The term at the drawn time, and those at the ends."""
        noised = noising(params, keys, batch)
        schedule, x0 = noised.process.schedule, noised.x0
        first = jnp.asarray(1 / schedule.steps)
        error = weighted_error(noised, noised.output, Variational()).mean((1, 2, 3))
        within = jnp.where(noised.t > first, error, 0.0)
        spread = schedule.sigma_ve(first)
        near = x0 + spread * normal(fold_in(keys, 5), x0.shape[1:])
        ends = levels_nll(x0, near, spread) + prior_kl(schedule, x0, jnp.ones(()))
        return within, ends / x0[0].size

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        if "schedule" not in params:
            within, ends = bound(params, keys, batch)
            return jnp.mean(within + ends), {}
        ends_free, way_free = process.schedule.apart(params["schedule"])
        within, ends = bound({**params, "schedule": ends_free}, keys, batch)
        fixed = {**lax.stop_gradient(params), "schedule": way_free}
        square = jnp.mean(bound(fixed, keys, batch)[0] ** 2)
        return jnp.mean(within + ends) + square - lax.stop_gradient(square), {}

    return loss_fn


def drawn_term(noised: Noised, prediction: Prediction) -> Float[Array, "B"]:
    """T times the term of the bound that the time draws, in nats a dimension: a step, or the last.

    The last step, down to t = 0, tells the image's 8-bit value (Ho et al. 2020, section 3.3).
    """
    schedule, x0, t = noised.process.schedule, noised.x0, noised.t
    index = jnp.round(t * schedule.steps)
    last, at_last = index < 2, expand(index, x0) < 2
    # Each of the two is computed for all: finite, too, where it says nothing.
    s = jnp.where(last, t / 2, (index - 1) / schedule.steps)
    step = step_kl(schedule, x0, noised.eps, prediction, t, s)
    std = jnp.where(at_last, expand(last_std(schedule, prediction, t), x0), 1.0)
    value = levels_nll(x0, prediction.x0, std)
    return schedule.steps * jnp.where(last, value, step) / x0[0].size


def _check_fair(times: TimeLaw, loss: str) -> None:
    if not times.fair:
        name = type(times).__name__
        raise UserError(
            f"times {name} weigh some times more, and the {loss} loss is a bound only where all "
            "count alike: choose times uniform or importance"
            + ("" if loss == "continuous_vlb" else ", or grid")
        )
