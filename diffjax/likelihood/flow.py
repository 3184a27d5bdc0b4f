"""The density of the probability-flow ODE (Song et al. 2021b, section 4.3 and appendix D.2)."""

from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float

from diffjax.randomness import fold_in, normal
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times
from diffjax.variational_terms import BIN, gaussian_nll

# Runge and Kutta's classical method: how far along the last slope each stage looks, its weight,
# and whether it looks from the start, the middle or the end of the step.
LAGS, WEIGHTS, PLACES = (0.0, 0.5, 0.5, 1.0), (1 / 6, 1 / 3, 1 / 3, 1 / 6), (0, 1, 1, 2)
Probes = Literal["rademacher", "gaussian"]


def flow_log_prob(
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    x: Images,
    times: Float[Array, "M"],
    *,
    probes: int = 1,
    kind: Probes = "rademacher",
) -> Float[Array, "P B"]:
    """log-density in nats of x at times[0], once with each probe's estimate of the trace.

    `times` rise to where the density is the prior's, N(0, sigma²); the method takes a step of order
    4 from each second one to the next, so that their number is odd. They should be those of
    `log_snr_times`: log-SNR is what is integrated over, in which the flow is never stiff.
    """
    alpha, sigma = schedule.alpha_sigma(times)
    log_snr, scale = schedule.log_snr(times), jnp.hypot(alpha, sigma)
    noise = _probes(keys, x.shape[1:], probes, kind)

    def rates(y: Images, i: Array) -> tuple[Images, Float[Array, "P B"]]:
        def drift(y: Images) -> Images:
            return _drift(denoise, y, times[i], log_snr[i], scale[i])

        slope, pull = jax.vjp(drift, y)
        (turned,) = jax.vmap(pull)(noise)
        return slope, jnp.sum(noise * turned, axis=(2, 3, 4))

    def step(carry: tuple[Images, Float[Array, "P B"]], i: Array) -> tuple[tuple, None]:
        length = log_snr[i + 2] - log_snr[i]

        def stage(held: tuple, at: tuple) -> tuple[tuple, None]:
            (slope, _), total = held
            lag, weight, place = at
            found = rates(carry[0] + lag * length * slope, i + place)
            total = jax.tree.map(lambda a, b: a + weight * length * b, total, found)
            return (found, total), None

        start = (jax.tree.map(jnp.zeros_like, carry), carry)
        (_, end), _ = lax.scan(stage, start, tuple(map(jnp.asarray, (LAGS, WEIGHTS, PLACES))))
        return end, None

    start = (x / scale[0], jnp.zeros((probes, len(x))))
    (y, growth), _ = lax.scan(step, start, jnp.arange(0, len(times) - 1, 2))
    prior = -gaussian_nll(y, jnp.zeros_like(y), sigma[-1] / scale[-1])
    return prior + growth - x[0].size * jnp.log(scale[0])


def flow_nll(
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    x0: Images,
    times: Float[Array, "M"],
    *,
    probes: int = 1,
    kind: Probes = "rademacher",
) -> Float[Array, "P B"]:
    """-log-density in nats of continuous images, taken for x / alpha at times[0]."""
    alpha, _ = schedule.alpha_sigma(times[0])
    found = flow_log_prob(schedule, denoise, keys, alpha * x0, times, probes=probes, kind=kind)
    return -found - x0[0].size * jnp.log(alpha)


def uniform_nll(
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    x0: Images,
    times: Float[Array, "M"],
    *,
    probes: int = 1,
    kind: Probes = "rademacher",
) -> Float[Array, "P B"]:
    """At least -log-likelihood in nats of 8-bit images: their bins are filled evenly.

    Uniform dequantisation (Theis et al. 2016, section 3.1).
    """
    draw = jax.vmap(lambda key: jax.random.uniform(key, x0.shape[1:], minval=-0.5, maxval=0.5))
    filled = x0 + BIN * draw(fold_in(keys, 0))
    found = flow_nll(schedule, denoise, fold_in(keys, 1), filled, times, probes=probes, kind=kind)
    return found - x0[0].size * np.log(BIN)


def _drift(
    denoise: Denoiser,
    y: Images,
    t: Times,
    log_snr: Float[Array, ""],
    scale: Float[Array, ""],
) -> Images:
    """dy / dlog_snr of y = x / sqrt(alpha² + sigma²), in whose terms every process keeps variance.

    With y = cos φ x0 + sin φ eps it is dy / dφ = cos φ eps - sin φ x0 (Salimans & Ho 2022,
    appendix D), and dφ / dlog_snr = -cos φ sin φ / 2: nothing grows at either end.
    """
    cos, sin = jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))
    x0, eps, _ = denoise(scale * y, t)
    return cos * sin / 2 * (sin * x0 - cos * eps)


def _probes(
    keys: Keys, shape: tuple[int, ...], count: int, kind: Probes
) -> Float[Array, "P B H W C"]:
    """Noise of mean 0 and variance 1, so that e·Je has the trace of J for its mean."""

    def draw(i: Array) -> Images:
        own = fold_in(keys, i)
        if kind == "gaussian":
            return normal(own, shape)
        return jax.vmap(lambda key: jax.random.rademacher(key, shape, jnp.float32))(own)

    return jax.vmap(draw)(jnp.arange(count))
