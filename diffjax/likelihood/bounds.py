"""The variational bound on an image's -log-likelihood, over T steps and in continuous time.

Draws are an image's own: their keys, and so what is computed of one, depend on no other.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import lax
from jaxtyping import Array, Float, Float32

from diffjax.process import Process
from diffjax.randomness import fold_in, normal
from diffjax.schedules.base import Schedule
from diffjax.typing import Denoiser, Images, Keys, Times
from diffjax.variational_terms import last_std, noise_error, per_image, prior_kl, step_kl

Nll = Callable[[Images, Images, Float[Array, "..."]], Float[Array, "B"]]  # of x0, mean, std
# log-SNR at which a signal counts as none: its prior term is 1e-6 nats a dimension.
NEGLIGIBLE = -13.0
LATEST = 1 - 1e-6  # after it float32 has too few times to tell one log-SNR from the next


class Bound(NamedTuple):
    """A bound's terms in nats, of each image; their sum is what -log-likelihood is at most."""

    prior: Float[Array, "B"]
    diffusion: Float[Array, "B"]
    reconstruction: Float[Array, "B"]

    @property
    def total(self) -> Float[Array, "B"]:
        return self.prior + self.diffusion + self.reconstruction


def discrete_bound(
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    x0: Images,
    nll: Nll,
    *,
    steps: int,
    draws: int | None = None,
) -> Bound:
    """The bound of an ancestral sampler with `steps` even steps (Ho et al. 2020, eq. 5).

    Each image has `draws` of the steps, each weighed by how rarely it comes; by default all, once.
    `nll` is variational_terms.levels_nll for 8-bit images or gaussian_nll for continuous ones.
    """
    inner = steps - 1  # the last step is the reconstruction
    count = inner if draws is None else min(draws, inner)
    noise_keys, offset = fold_in(keys, 1), _uniform(fold_in(keys, 0))
    shares = _shares(schedule, steps)

    def add(total: Float[Array, "B"], k: Array) -> tuple[Float[Array, "B"], None]:
        step, weight = jnp.broadcast_to(k, x0.shape[:1]), jnp.ones(())
        if count < inner:
            found = jnp.searchsorted(jnp.cumsum(shares), (offset + k) / count)
            step = jnp.minimum(found, inner - 1)
            weight = 1 / (count * shares[step])
        t, s = jnp.minimum((step + 2) / steps, 1), (step + 1) / steps  # compiled, it may pass 1
        x, eps = _noised(schedule, fold_in(noise_keys, k), x0, t)
        return total + weight * step_kl(schedule, x0, eps, denoise(x, t), t, s), None

    total, _ = lax.scan(add, jnp.zeros(x0.shape[:1]), jnp.arange(count))
    first, last = jnp.full(x0.shape[:1], 1 / steps), jnp.ones(x0.shape[:1])
    return Bound(
        prior_kl(schedule, x0, last),
        total,
        reconstruction(schedule, denoise, fold_in(keys, 2), x0, nll, first),
    )


def continuous_bound(
    schedule: Schedule,
    denoise: Denoiser,
    keys: Keys,
    x0: Images,
    nll: Nll,
    times: Float[Array, "M"],
    *,
    draws: int,
) -> Bound:
    """The bound of infinitely many steps from times[-1] to times[0] (Kingma et al. 2021, eq. 17).

    Its integrand -1/2 dlog_snr/dt |eps - predicted eps|² is taken at `draws` times of each image,
    evenly spaced from one random offset. The integral is the same in any variable: here the
    position along `times`, those of `log_snr_times`, in which the integrand hardly varies.
    """
    time_keys, noise_keys = fold_in(keys, 0), fold_in(keys, 1)
    offset = _uniform(time_keys)
    nodes = jnp.linspace(0, 1, len(times))

    def time(position: Times) -> Times:
        return jnp.interp(position, nodes, times)

    def add(total: Float[Array, "B"], k: Array) -> tuple[Float[Array, "B"], None]:
        position = (offset + k) / draws
        t = time(position)
        _, rate = jax.jvp(
            lambda position: schedule.log_snr(time(position)), (position,), (jnp.ones_like(t),)
        )
        x, eps = _noised(schedule, fold_in(noise_keys, k), x0, t)
        error = per_image(noise_error(schedule, x0, eps, denoise(x, t), t))
        return total - rate * error / 2, None

    total, _ = lax.scan(add, jnp.zeros(x0.shape[:1]), jnp.arange(draws))
    first, last = (jnp.broadcast_to(t, x0.shape[:1]) for t in (times[0], times[-1]))
    return Bound(
        prior_kl(schedule, x0, last),
        total / draws,
        reconstruction(schedule, denoise, fold_in(keys, 2), x0, nll, first),
    )


def reconstruction(
    schedule: Schedule, denoise: Denoiser, keys: Keys, x0: Images, nll: Nll, t: Times
) -> Float[Array, "B"]:
    """-log p(x0 | x_t) at the first time, whose mean is the predicted image."""
    x, _ = _noised(schedule, keys, x0, t)
    prediction = denoise(x, t)
    return nll(x0, prediction.x0, last_std(schedule, prediction, t))


def log_snr_times(schedule: Schedule, first: float, points: int) -> Float32[np.ndarray, "M"]:
    """`points` times, even in log-SNR, from `first` to 1, or to where the signal is negligible."""
    ends = np.asarray(schedule.log_snr(jnp.asarray([first, LATEST])), np.float64)
    log_snr = np.linspace(ends[0], max(ends[1], NEGLIGIBLE), points)
    times = np.array(schedule.time_at(jnp.asarray(np.exp(-log_snr / 2), jnp.float32)))
    times[0] = first
    return times


def _shares(schedule: Schedule, steps: int) -> Float[Array, "T"]:
    """How often each step but the last is drawn: by how far log-SNR falls, as its KL is, in it.

    Where no signal is left that would be for nothing; a tenth of all is spread evenly.
    """
    log_snr = jnp.maximum(schedule.log_snr(jnp.arange(1, steps + 1) / steps), NEGLIGIBLE)
    fall = log_snr[:-1] - log_snr[1:]
    return 0.9 * fall / fall.sum() + 0.1 / max(steps - 1, 1)


def _uniform(keys: Keys) -> Float[Array, "B"]:
    return jax.vmap(lambda key: jax.random.uniform(key))(keys)


def _noised(schedule: Schedule, keys: Keys, x0: Images, t: Times) -> tuple[Images, Images]:
    """x_t, and the noise in it."""
    eps = normal(keys, x0.shape[1:])
    return Process(schedule, "x0").q_sample(x0, eps, t), eps
