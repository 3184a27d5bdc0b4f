"""Rings in the noise's Fourier transform."""

import dataclasses
import functools
from typing import TYPE_CHECKING, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Bool, Complex, Float, Int

from diffjax import lazy
from diffjax.errors import UserError
from diffjax.randomness import fold_in, normal
from diffjax.trust.watermarks.base import Found, Watermark, check_secret, key_of
from diffjax.typing import Images, Keys

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = lazy.module("scipy.stats")

__all__ = ["TreeRing"]

LEAST = 1e-300  # a tail below it is as good as none
CHOICE = 8  # folded into a sample's key: the draw of its pattern
GIVEN = 1000  # draws that a chance is computed from
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
    one with the lowest is taken. secret: decides the values. inner, radius: of the smallest and
    the largest ring, in periods an image side. channel: of the noise, that is marked. patterns: how
    many sets of values there are; each image draws one. With one, as in the paper, all images are
    drawn from noise that is partly the same, which costs diversity and which their mean gives away;
    with many, other secrets find the rings too. Raises UserError for radii that are not 1 <= inner
    <= radius, a channel below 0 and no pattern.

    What is found is combined from a t test a ring, so that the p-value supposes no spectrum: only
    that the coefficients of a ring vary alike about 0 (the paper's supposes white noise), and go
    together no more than those of the places do where the noise is known. It is
    that of images without rings: those of another secret, a few numbers too, may look like these.
    """

    secret: str
    inner: int = 1
    radius: int = 10
    channel: int = 0
    patterns: int = 1

    def __post_init__(self) -> None:
        check_secret(self.secret)
        if not 1 <= self.inner <= self.radius or self.channel < 0 or self.patterns < 1:
            raise UserError(
                f"tree_ring(inner={self.inner}, radius={self.radius}, channel={self.channel}, "
                f"patterns={self.patterns}): choose 1 <= inner <= radius, a channel of 0 or more, "
                "and a pattern or more"
            )

    def noise(self, keys: Keys, shape: tuple[int, int, int]) -> Images:
        rings, values = self._rings(shape), self._values(shape)
        plain = normal(keys, shape)
        spectrum = jnp.fft.fft2(plain[..., self.channel], norm="ortho")
        draw = functools.partial(jax.random.randint, shape=(), minval=0, maxval=self.patterns)
        chosen = jnp.asarray(values)[jax.vmap(draw)(fold_in(keys, CHOICE))]
        pattern = rings.centred * jnp.pad(chosen, ((0, 0), (1, 0)))[:, rings.number]
        own = jnp.fft.ifft2(jnp.where(rings.number > 0, pattern, spectrum), norm="ortho").real
        return plain.at[..., self.channel].set(own)

    def find(self, noise: Float[np.ndarray, "N h w c"]) -> Found:
        shape = (noise.shape[1], noise.shape[2], noise.shape[3])
        rings, values = self._rings(shape), self._values(shape)
        plane = noise[..., self.channel].astype(np.float64)
        spectrum = np.fft.fft2(plane, norm="ortho") * rings.centred.conj()
        of_rings, counts = [], []
        for ring in range(1, values.shape[1] + 1):
            of_ring = rings.number == ring
            own = spectrum[:, of_ring & rings.half]
            wave = np.fft.ifft2(of_ring * rings.centred).real
            of_rings.append(_normal_score(own, _widening(wave, plane != 0)))
            counts.append(own.shape[1])
        weights = values * np.sqrt(counts)
        weights /= np.linalg.norm(weights, axis=1, keepdims=True)
        scores = np.stack(of_rings, 1)
        return Found(chance_of_highest((scores @ weights.T).max(1), weights))

    def _rings(self, shape: tuple[int, int, int]) -> Rings:
        height, width, channels = shape
        if self.channel >= channels or 2 * self.radius >= min(height, width):
            raise UserError(
                f"tree_ring(radius={self.radius}, channel={self.channel}): noise of {height}x"
                f"{width} and {channels} channels has no such ring"
            )
        down, right = (np.round(np.fft.fftfreq(n) * n).astype(int) for n in (height, width))
        distance = np.rint(np.hypot(down[:, None], right))
        marked = (self.inner <= distance) & (distance <= self.radius)
        number = np.where(marked, distance - self.inner + 1, 0).astype(int)
        half = (down[:, None] > 0) | ((down[:, None] == 0) & (right > 0))
        turns = down[:, None] * (height - 1) / (2 * height) + right * (width - 1) / (2 * width)
        return Rings(number, half, np.exp(-2j * np.pi * turns))

    def _values(self, shape: tuple[int, int, int]) -> Float[np.ndarray, "K R"]:
        """Of each pattern the value of each ring, of mean square 1 over all coefficients."""
        number = self._rings(shape).number
        counts = np.bincount(number.ravel())[1:]
        rings = number == np.arange(1, len(counts) + 1)[:, None, None]
        waves = np.fft.ifft2(rings).reshape(len(counts), -1)
        sets = jax.random.normal(key_of(self.secret), (self.patterns, TRIED, len(counts)))
        found = []
        for values in np.asarray(sets, np.float64):
            values *= np.sqrt(counts.sum() / (counts * values**2).sum(1, keepdims=True))
            found.append(values[np.abs(values @ waves).max(1).argmin()])
        return np.stack(found)


def chance_of_highest(
    highest: Float[np.ndarray, "N"], weights: Float[np.ndarray, "K R"]
) -> Float[np.ndarray, "N"]:
    """How likely R unit normal numbers have, with one of K unit vectors, so high a product.

    The sum of the K chances, and of it the share that is not counted more than once: the mean of
    one over how many products are as high, given that one is (Naiman & Priebe 2001).
    """
    alone = np.maximum(stats.norm.sf(highest), LEAST)
    if len(weights) == 1:
        return alone
    rng = np.random.default_rng(0)
    given = weights[rng.integers(0, len(weights), GIVEN)]
    rest = rng.normal(size=given.shape)
    rest -= (rest * given).sum(1, keepdims=True) * given
    level = rng.uniform(size=GIVEN)
    shares = []
    for chance, product in zip(alone, highest, strict=True):
        numbers = rest + stats.norm.isf(level * chance)[:, None] * given
        count = (numbers @ weights.T >= product - 1e-9).sum(1)
        shares.append((1 / np.maximum(count, 1)).mean())
    return np.minimum(len(weights) * alone * np.stack(shares), 1)


def _widening(
    wave: Float[np.ndarray, "h w"], known: Bool[np.ndarray, "N h w"]
) -> Float[np.ndarray, "N"]:
    """The variance of a ring's mean over that of as many coefficients that are independent.

    wave: of which the mean is the product with the noise. Coefficients of noise that is known in
    part of an image go together, the more the larger the wave is there.
    """
    power = wave**2
    return (known * power).sum((1, 2)) / power.mean() / np.maximum(known.sum((1, 2)), 1)


def _normal_score(
    coefficients: Complex[np.ndarray, "N n"], widening: Float[np.ndarray, "N"]
) -> Float[np.ndarray, "N"]:
    """How far the real parts' mean lies above 0, as a unit normal number where it does not.

    Imaginary parts vary alike, about 0: they tell of the spread too.
    """
    count = coefficients.shape[1]
    mean = coefficients.real.mean(1)
    squares = ((coefficients.real - mean[:, None]) ** 2).sum(1) + (coefficients.imag**2).sum(1)
    scale = np.sqrt(widening * squares / (2 * count - 1) / count)
    t = mean / np.where(scale > 0, scale, 1)
    tail = np.maximum(stats.t.sf(np.abs(t), 2 * count - 1), LEAST)
    return np.sign(t) * stats.norm.isf(tail)
