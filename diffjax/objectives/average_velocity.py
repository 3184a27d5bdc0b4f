"""Networks of average velocity, learnt from nothing: one step of any length instead of many."""

from collections.abc import Callable, Mapping

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.conditions.base import Condition
from diffjax.conditions.none import Unconditional
from diffjax.errors import UserError
from diffjax.models.convolution import forward_mode
from diffjax.objectives import dropout
from diffjax.objectives.noising import LossFn
from diffjax.process import Process, expand, told
from diffjax.randomness import fold_in, normal
from diffjax.schedules.base import Schedule
from diffjax.time_laws.base import TimeLaw, uniform
from diffjax.time_laws.logit_normal import LogitNormal
from diffjax.typing import Apply, Cond, Images, Keys, Params, Times

Network = Callable[[Images, Times, Times], Images]  # (x, t, s) -> the average velocity from t to s
SHARE = 0.25  # of the samples learn of steps that have a length, the rest a flow's velocity
LENGTHS = 7  # of the steps that shortcuts learn: 1, 1/2, ... 1/64 of the way


def mean_flow_loss(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 frozen, as the next
    times: TimeLaw = LogitNormal(-0.4),  # noqa: B008
    learned_guidance: float = 1.0,
) -> LossFn:
    """MeanFlow (Geng et al. 2025, algorithm 1): u = v - (sigma_t - sigma_s) du/dsigma.

    The derivative is the one along the path, by jax.jvp, and is held constant. Of two drawn times t
    is the greater, and s the other for a quarter of the samples, t for the rest. Each sample's
    squared error counts by 1 / (error + 0.001). learned_guidance is the scale of guidance that the
    network learns (eq. 13). The batch holds `image`, x0, and what the condition reads.

    Raises UserError for a network that is told no span, and for guidance without a null condition.
    """
    _check(process, condition, learned_guidance)
    schedule = process.schedule

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        t, s, importance = _two_times(times, schedule, keys)
        noised = _Path(process, apply, params, keys, batch, condition, t)
        velocity = noised.velocity(learned_guidance)
        rate = _rate(schedule, t)
        with forward_mode():
            _, change = jax.jvp(
                lambda x, t: noised.network(x, t, s), (noised.x, t), (velocity, 1 / rate)
            )
        span = _sigma(schedule, t) - _sigma(schedule, s)
        goal = jax.lax.stop_gradient(velocity - expand(span, change) * change)
        error = jnp.mean((noised.network(noised.x, t, s) - goal) ** 2, axis=(1, 2, 3))
        weight = importance / (jax.lax.stop_gradient(error) + 1e-3)
        return jnp.mean(weight * error), {"error": error.mean()}

    return loss_fn


def shortcut_loss(
    process: Process,
    apply: Apply,
    *,
    condition: Condition = Unconditional(),  # noqa: B008 frozen, as the next
    times: TimeLaw = LogitNormal(-0.4),  # noqa: B008
    learned_guidance: float = 1.0,
) -> LossFn:
    """A shortcut model (Frans et al. 2024, algorithm 1): one step leads where two halves of it do.

    A quarter of the samples learn steps of 1/64, 1/32, ... 1 of the way, from multiples of the
    step's length; the halves of the shortest are steps of no length. The rest learn a flow's
    velocity at `times`. The rest is as in `mean_flow_loss`, which it raises the same for.
    """
    _check(process, condition, learned_guidance)
    schedule = process.schedule

    def loss_fn(
        params: Params, keys: Keys, batch: Mapping[str, Array]
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        t, importance = times.draw(fold_in(keys, 0), schedule)
        jumps = uniform(fold_in(keys, 1)) <= SHARE
        halvings = jnp.ceil(uniform(fold_in(keys, 2)) * LENGTHS) - 1
        length = 2.0**-halvings
        place = jnp.ceil(uniform(fold_in(keys, 3)) / length) * length
        t, s = jnp.where(jumps, place, t), jnp.where(jumps, place - length, t)
        noised = _Path(process, apply, params, keys, batch, condition, t)
        middle = (t + s) / 2
        shortest = halvings == LENGTHS - 1
        first, sigma = jnp.where(shortest, t, middle), _sigma(schedule, t)
        between, end = _sigma(schedule, middle), _sigma(schedule, s)
        one = noised.network(noised.x, t, first)
        halfway = noised.x - expand(sigma - between, one) * one
        two = noised.network(halfway, middle, jnp.where(shortest, middle, s))
        gaps = sigma - between, between - end
        whole = jnp.where(jumps, sigma - end, 1.0)
        joined = expand(gaps[0] / whole, one) * one + expand(gaps[1] / whole, two) * two
        goal = jnp.where(expand(jumps, one), joined, noised.velocity(learned_guidance))
        found = noised.network(noised.x, t, s)
        error = jnp.mean((found - jax.lax.stop_gradient(goal)) ** 2, axis=(1, 2, 3))
        return jnp.mean(jnp.where(jumps, 1.0, importance) * error), {}

    return loss_fn


class _Path:
    """A noised batch on its way to the noise, and the network as it is trained there."""

    def __init__(
        self, process: Process, apply: Apply, params: Params, keys: Keys,
        batch: Mapping[str, Array], condition: Condition, t: Times,
    ) -> None:  # fmt: skip
        self._process, self._apply, self._params, self._t = process, apply, params, t
        self._dropped = fold_in(keys, 6)
        self._x0 = batch["image"]
        self._eps = normal(fold_in(keys, 5), self._x0.shape[1:])
        shown = condition.of_batch(batch)
        self._cond, self._null = condition.hide(keys, shown), condition.null(shown)
        self.x = process.q_sample(self._x0, self._eps, t)

    def network(self, x: Images, t: Times, s: Times) -> Images:
        """The average velocity from t to s."""
        return self._told(self._cond, x, t, s)

    def velocity(self, guidance: float) -> Images:
        """dx / dsigma, guided where the condition is not hidden; held constant."""
        plain = self._eps - self._x0
        if guidance == 1:
            return plain
        away = self._told(self._null, self.x, self._t, self._t)
        guided = guidance * plain + (1 - guidance) * away
        # Where the condition is hidden `away` is what the network says itself.
        same = jax.tree.map(
            lambda a, b: (a == b).reshape(len(a), -1).all(1), self._cond, self._null
        )
        hidden = jnp.stack(jax.tree.leaves(same)).all(0)
        return jax.lax.stop_gradient(jnp.where(expand(hidden, plain), plain, guided))

    def _told(self, cond: Cond, x: Images, t: Times, s: Times) -> Images:
        process = self._process
        seen = process.model_input(x, t), process.model_time(t), *told(cond)
        with dropout.by_sample(self._dropped):
            output: Images = self._apply(
                {"params": self._params}, *seen, span=process.model_span(t, s), train=True
            )
        return output


def _two_times(
    times: TimeLaw, schedule: Schedule, keys: Keys
) -> tuple[Float[Array, "B"], Float[Array, "B"], Float[Array, "B"]]:
    """t, s <= t, and the importance of the two."""
    (a, of_a), (b, of_b) = (times.draw(fold_in(keys, i), schedule) for i in range(2))
    apart = uniform(fold_in(keys, 2)) <= SHARE
    t = jnp.where(apart, jnp.maximum(a, b), a)
    s = jnp.where(apart, jnp.minimum(a, b), a)
    return t, s, of_a * jnp.where(apart, of_b, 1.0)


def _sigma(schedule: Schedule, t: Times) -> Times:
    return schedule.alpha_sigma(t)[1]


def _rate(schedule: Schedule, t: Times) -> Times:
    """dsigma / dt."""
    _, rate = jax.jvp(lambda t: _sigma(schedule, t), (t,), (jnp.ones_like(t),))
    return rate


def _check(process: Process, condition: Condition, guidance: float) -> None:
    if not process.average:
        raise UserError(
            "a loss of average velocity needs a network that is told spans: unet(spans=True)"
        )
    if guidance != 1 and not condition.drop:
        raise UserError(
            f"learned_guidance={guidance} leads away from the null condition, which the network "
            "is not taught: give cond_drop above 0",
            option="cond_drop",
        )
