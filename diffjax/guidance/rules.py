"""What guidance makes of a wanted and an unwanted prediction."""

import jax.numpy as jnp
from jaxtyping import Array, Float

from diffjax.guidance.base import Rule, Scale, with_x0
from diffjax.process import expand
from diffjax.schedules.base import Schedule
from diffjax.typing import Images, Prediction, Times

PIXELS = (1, 2, 3)


def classifier_free(
    x: Images, t: Times, wanted: Prediction, unwanted: Prediction, scale: Scale
) -> Prediction:
    """unwanted + scale (wanted - unwanted); scale is Ho & Salimans' w + 1 (2022, eq. 6)."""
    further = expand(scale - 1, x)
    # Weights that sum to 1 keep x = alpha x0 + sigma eps. Written so that scale 1 is exactly off.
    x0 = wanted.x0 + further * (wanted.x0 - unwanted.x0)
    eps = wanted.eps + further * (wanted.eps - unwanted.eps)
    return Prediction(x0, eps, wanted.fraction)


def rescaled(rule: Rule, schedule: Schedule, phi: Float[Array, ""]) -> Rule:
    """A rule whose x0 gets back the wanted one's standard deviation, by the share phi in [0, 1].

    Lin et al. 2024, section 3.4. They rescale what the network gives back; x0 does not depend on
    the target, and where nothing but noise is left it is their v, up to sign. An image without any
    spread is left as it is.
    """

    def rule_(
        x: Images, t: Times, wanted: Prediction, unwanted: Prediction, scale: Scale
    ) -> Prediction:
        x0 = rule(x, t, wanted, unwanted, scale).x0
        before = jnp.var(wanted.x0, axis=PIXELS, keepdims=True)
        after = jnp.var(x0, axis=PIXELS, keepdims=True)
        spread = (before > 0) & (after > 0)
        # Both guarded: the root's gradient at 0 is infinite.
        ratio = jnp.where(spread, before, 1.0) / jnp.where(spread, after, 1.0)
        x0 = x0 * (1 + phi * (jnp.sqrt(ratio) - 1))
        return with_x0(schedule, x, t, x0, wanted.fraction)

    return rule_


def adaptive_projected(
    schedule: Schedule, eta: Float[Array, ""], threshold: Float[Array, ""]
) -> Rule:
    """Adaptive projected guidance (Sadat et al. 2024), on x0.

    The step from the unwanted to the wanted x0 is shortened to the norm `threshold` (their r, above
    0; inf is off), and of its part along the wanted x0, which oversaturates, the share `eta` is
    kept (1 keeps all: then this is classifier_free). Their momentum is left at 0: a denoiser
    remembers no step before.
    """

    def rule(
        x: Images, t: Times, wanted: Prediction, unwanted: Prediction, scale: Scale
    ) -> Prediction:
        step = wanted.x0 - unwanted.x0
        square = _dot(step, step)
        long = square > threshold**2
        step = step * jnp.where(long, threshold / jnp.sqrt(jnp.where(long, square, 1.0)), 1.0)
        size = _dot(wanted.x0, wanted.x0)
        along = _dot(step, wanted.x0) / jnp.where(size > 0, size, 1.0) * wanted.x0
        x0 = wanted.x0 + expand(scale - 1, x) * (step - (1 - eta) * along)
        return with_x0(schedule, x, t, x0, wanted.fraction)

    return rule


def _dot(a: Images, b: Images) -> Float[Array, "B 1 1 1"]:
    return jnp.sum(a * b, axis=PIXELS, keepdims=True)
