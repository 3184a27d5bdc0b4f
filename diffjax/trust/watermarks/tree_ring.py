"""Rings in the noise's Fourier transform."""

import dataclasses
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from diffjax import lazy
from diffjax.errors import UserError
from diffjax.randomness import normal
from diffjax.trust.watermarks.base import Found, Watermark, check_secret, key_of
from diffjax.typing import Images, Keys

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = lazy.module("scipy.stats")

__all__ = ["TreeRing"]

LEAST = 1e-300  # a tail below it is as good as none
TRIED = 256  # sets of values, of which the one with the lowest peak marks


class Rings(NamedTuple):
    """Frequencies by ring. number: of each frequency, from 1, or 0 outside. half: whether it is the
    one of a pair with its negative, of which real noise has conjugate coefficients. centred: the
    coefficients of a point in the middle of the image.
    """

    number: Int[np.ndarray, "h w"]
    half: Bool[np.ndarray, "h w"]
    centred: Complex[np.ndarray, "h w"]


@dataclasses.dataclass(frozen=True)
class TreeRing(Watermark):
    """Coefficients of one value on each ring of frequencies (Wen et al. 2023, sec. 3.2).

    Rings about the image's middle stay as they are when it is turned. The values are real, as those
    of real noise must be (of the paper's complex ones half is lost), and have the mean square of
    unit noise. What is alike in all directions has a peak in the middle: of many sets of values the
    one with the lowest is taken. secret: decides the values. radius: of the largest ring, in
    periods an image side. channel: of the noise, that is marked. Raises UserError for a radius
    below 1 and a channel below 0.

    What is found is combined from a t test a ring, so that the p-value supposes no spectrum: only
    that the coefficients of a ring vary alike about 0 (the paper's supposes white noise). It is
    that of images without rings: those of another secret, a few numbers too, may look like these.
    """

    secret: str
    radius: int = 10
    channel: int = 0

    def __post_init__(self) -> None:
        check_secret(self.secret)
        if self.radius < 1 or self.channel < 0:
            raise UserError(
                f"tree_ring(radius={self.radius}, channel={self.channel}): choose a radius of 1 or "
                "more, and a channel of 0 or more"
            )

    def noise(self, keys: Keys, shape: tuple[int, int, int]) -> Images:
        rings, values = self._rings(shape), self._values(shape)
        plain = normal(keys, shape)
        spectrum = jnp.fft.fft2(plain[..., self.channel], norm="ortho")
        pattern = rings.centred * np.append(0.0, values)[rings.number]
        own = jnp.fft.ifft2(jnp.where(rings.number > 0, pattern, spectrum), norm="ortho").real
        return plain.at[..., self.channel].set(own)

    def find(self, noise: Float[np.ndarray, "N h w c"]) -> Found:
        shape = (noise.shape[1], noise.shape[2], noise.shape[3])
        rings, values = self._rings(shape), self._values(shape)
        spectrum = np.fft.fft2(noise[..., self.channel].astype(np.float64), norm="ortho")
        spectrum = spectrum * rings.centred.conj()
        scores, weights = np.zeros(len(noise)), 0.0
        for ring, value in enumerate(values, 1):
            own = spectrum[:, (rings.number == ring) & rings.half]
            scores += value * own.shape[1] ** 0.5 * _normal_score(own)
            weights += value**2 * own.shape[1]
        return Found(stats.norm.sf(scores / weights**0.5))

    def _rings(self, shape: tuple[int, int, int]) -> Rings:
        height, width, channels = shape
        if self.channel >= channels or 2 * self.radius >= min(height, width):
            raise UserError(
                f"tree_ring(radius={self.radius}, channel={self.channel}): noise of {height}x"
                f"{width} and {channels} channels has no such ring"
            )
        down, right = (np.round(np.fft.fftfreq(n) * n).astype(int) for n in (height, width))
        distance = np.rint(np.hypot(down[:, None], right))
        number = np.where(distance <= self.radius, distance, 0).astype(int)
        half = (down[:, None] > 0) | ((down[:, None] == 0) & (right > 0))
        turns = down[:, None] * (height - 1) / (2 * height) + right * (width - 1) / (2 * width)
        return Rings(number, half, np.exp(-2j * np.pi * turns))

    def _values(self, shape: tuple[int, int, int]) -> Float[np.ndarray, "R"]:
        """The value of each ring, of mean square 1 over all coefficients."""
        number = self._rings(shape).number
        counts = np.bincount(number.ravel(), minlength=self.radius + 1)[1:]
        sets = jax.random.normal(key_of(self.secret), (TRIED, self.radius))
        values = np.asarray(sets, np.float64)
        values *= np.sqrt(counts.sum() / (counts * values**2).sum(1, keepdims=True))
        peaks = np.abs(np.fft.ifft2(np.pad(values, ((0, 0), (1, 0)))[:, number])).max((1, 2))
        found: Float[np.ndarray, "R"] = values[peaks.argmin()]
        return found


def _normal_score(coefficients: Complex[np.ndarray, "N n"]) -> Float[np.ndarray, "N"]:
    """How far the real parts' mean lies above 0, as a unit normal number where it does not.

    Imaginary parts vary alike, about 0: they tell of the spread too.
    """
    count = coefficients.shape[1]
    mean = coefficients.real.mean(1)
    squares = ((coefficients.real - mean[:, None]) ** 2).sum(1) + (coefficients.imag**2).sum(1)
    t = mean / np.sqrt(squares / (2 * count - 1) / count)
    tail = np.maximum(stats.t.sf(np.abs(t), 2 * count - 1), LEAST)
    return np.sign(t) * stats.norm.isf(tail)
