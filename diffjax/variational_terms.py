"""The terms of the variational bound, in nats: what a loss sums and what an evaluation reports."""

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float

from diffjax.process import expand
from diffjax.schedules.base import Schedule
from diffjax.typing import Images, Prediction, Times

BIN = 2 / 255  # from one of the 256 levels of an image in [-1, 1] to the next
NARROW = 0.02  # standard deviations over which a normal density is flat to 2e-5 of itself
FAR = 1e4  # in deviations: no float32 tells its tail from nothing, and its square is finite


def per_image(terms: Images) -> Float[Array, "B"]:
    """The sum over each image's pixels."""
    return terms.sum(axis=tuple(range(1, terms.ndim)))


def prior_kl(schedule: Schedule, x0: Images, t: Times) -> Float[Array, "B"]:
    """KL of q(x_t | x0) from N(0, sigma_t²), from which samplers start; t in (0, 1], mostly 1."""
    return per_image(expand(jnp.exp(schedule.log_snr(t)), x0) * x0**2 / 2)


def noise_error(
    schedule: Schedule, x0: Images, eps: Images, prediction: Prediction, t: Times
) -> Images:
    """(eps - predicted eps)² = SNR(t) (x0 - predicted x0)², pixel by pixel, for t in (0, 1].

    The one is taken below an SNR of 1 and the other above it: at the ends the other one is a
    difference of near equals, and where no signal is left the first of them says nothing.
    """
    log_snr = expand(schedule.log_snr(t), x0)
    of_x0 = jnp.exp(jnp.minimum(log_snr, 0)) * (x0 - prediction.x0) ** 2
    return jnp.where(log_snr > 0, (eps - prediction.eps) ** 2, of_x0)


def step_kl(
    schedule: Schedule, x0: Images, eps: Images, prediction: Prediction, t: Times, s: Times
) -> Float[Array, "B"]:
    """KL of q(x_s | x_t, x0) from the model's step, for 0 < s < t <= 1 and x_t of x0 and eps.

    With the posterior's own variance it is (SNR(s) - SNR(t)) |x0 - predicted x0|² / 2 (Kingma et
    al. 2021, section 4). A predicted `fraction` moves the variance (Nichol & Dhariwal 2021,
    eq. 15).
    """
    gap = expand(jnp.expm1(schedule.log_snr(s) - schedule.log_snr(t)), x0)
    square = gap * noise_error(schedule, x0, eps, prediction, t)
    if prediction.fraction is None:
        return per_image(square) / 2
    # log(model's variance / posterior's): those of the two ends are sigma_t² to sigma_s².
    (_, sigma_t), (_, sigma_s) = (schedule.alpha_sigma(at) for at in (t, s))
    ratio = prediction.fraction * expand(2 * jnp.log(sigma_t / sigma_s), x0)
    return per_image(ratio + jnp.expm1(-ratio) + jnp.exp(-ratio) * square) / 2


def last_std(
    schedule: Schedule, prediction: Prediction, t: Float[Array, "B"]
) -> Float[Array, "B ..."]:
    """The standard deviation of the step from t, the first time, to 0: the posterior has none.

    It is sigma / alpha, what x leaves open of x0 where nothing else is known: Ho et al.'s root of
    beta_1 (2020, section 3.2), but for alpha, which is next to 1. Where the network learns it, that
    is one end, and the other the posterior's of the step before, from 2 t to t (Nichol & Dhariwal
    2021, section 3.1).
    """
    std = schedule.sigma_ve(t)
    if prediction.fraction is None:
        return std
    before = jnp.minimum(2 * t, 1.0)
    gap = -jnp.expm1(schedule.log_snr(before) - schedule.log_snr(t))
    # Where T = 1 there is no step before.
    log_gap = jnp.log(jnp.where(before > t, gap, 1.0))
    std, log_gap = (expand(c, prediction.fraction) for c in (std, log_gap))
    return std * jnp.exp((1 - prediction.fraction) * log_gap / 2)


def gaussian_nll(x0: Images, mean: Images, std: Float[Array, "..."]) -> Float[Array, "B"]:
    """-log N(x0; mean, std²), of images whose values are continuous; std broadcasts over them."""
    std = expand(std, x0)
    square = ((x0 - mean) / std) ** 2
    return per_image(square + jnp.log(2 * np.pi * std**2)) / 2


def levels_nll(x0: Images, mean: Images, std: Float[Array, "..."]) -> Float[Array, "B"]:
    """-log probability of 8-bit images, a value the bin around it (Ho et al. 2020, eq. 13).

    x0 has the 256 levels from -1 to 1; the outermost bins reach to infinity. Accurate in the tails.
    """
    std = expand(std, x0)
    width, middle = BIN / std, (x0 - mean) / std
    inner = jnp.abs(x0) < 1 - BIN / 2
    above = jnp.where(x0 > 1 - BIN / 2, FAR, middle + width / 2)
    below = jnp.where(x0 < -1 + BIN / 2, -FAR, middle - width / 2)
    # cdf(above) - cdf(below), in the tail that is small: there a difference loses no digits.
    turn = above + below > 0
    high = jax.scipy.special.log_ndtr(jnp.where(turn, -below, above))
    low = jax.scipy.special.log_ndtr(jnp.where(turn, -above, below))
    # Unless the bin is too narrow for any: then the density hardly changes over it.
    narrow = inner & (width < NARROW)
    between = high + jnp.log(-jnp.expm1(jnp.where(narrow, -1.0, low - high)))
    density = jnp.log(width) - (middle**2 + np.log(2 * np.pi)) / 2
    return -per_image(jnp.where(narrow, density, between))
