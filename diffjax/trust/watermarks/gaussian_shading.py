"""A message in the signs of the noise."""

import dataclasses
import functools
from typing import TYPE_CHECKING

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Int, Key

from diffjax import lazy
from diffjax.errors import UserError
from diffjax.randomness import fold_in, normal
from diffjax.trust.watermarks.base import Found, Watermark, check_secret, key_of
from diffjax.typing import Images, Keys

if TYPE_CHECKING:
    from scipy import stats
else:
    stats = lazy.module("scipy.stats")

__all__ = ["GaussianShading"]

NONCE = 7  # folded into a sample's key: the draw of its nonce
AT_ONCE = 256  # nonces that are tried at a time


@dataclasses.dataclass(frozen=True)
class GaussianShading(Watermark):
    """Signs that a cipher turns by a message (Yang et al. 2024, sec. 4).

    The message is repeated over the noise, and a key stream of the secret and a nonce decides what
    sign says 1. The noise is exactly unit noise, to all who lack the secret. secret: of the stream.
    message: a number of `bits` bits; None finds any message. nonces: how many there are; each image
    draws one, so that the marks of two images differ. Raises UserError for numbers out of range.

    The paper's stream is of bits. This one is of normal numbers, of which only the signs are used
    to mark. What is found is their product with the noise, so that p-values are exact: over
    streams, it is normal whatever the noise.
    """

    secret: str
    message: int | None = None
    bits: int = 16
    nonces: int = 65536

    def __post_init__(self) -> None:
        check_secret(self.secret)
        if self.bits < 1 or not 0 <= (self.message or 0) < 2**self.bits or self.nonces < 1:
            raise UserError(
                f"gaussian_shading(message={self.message}, bits={self.bits}, nonces={self.nonces}):"
                " there is a bit and a nonce or more, and the message is a number of so many bits"
            )

    def noise(self, keys: Keys, shape: tuple[int, int, int]) -> Images:
        self._check(shape)
        if self.message is None:
            raise UserError("gaussian_shading needs a message to mark with: give message=1")
        draw = functools.partial(jax.random.randint, shape=(), minval=0, maxval=self.nonces)
        streams = jax.vmap(lambda nonce: self._stream(nonce, shape))(
            jax.vmap(draw)(fold_in(keys, NONCE))
        )
        size = normal(keys, shape)
        signs = jnp.sign(streams) * self._told(self.message)
        count = signs.shape[1] * self.bits
        marked = jnp.abs(size).reshape(len(size), -1)[:, :count] * signs.reshape(len(size), -1)
        return jnp.concatenate([marked, size.reshape(len(size), -1)[:, count:]], 1).reshape(
            size.shape
        )

    def find(self, noise: Float[np.ndarray, "N h w c"]) -> Found:
        shape = (noise.shape[1], noise.shape[2], noise.shape[3])
        self._check(shape)
        flat = jnp.asarray(noise, jnp.float32).reshape(len(noise), -1)
        repeats = flat.shape[1] // self.bits
        parts = flat[:, : repeats * self.bits].reshape(len(noise), repeats, self.bits)
        size = jnp.linalg.norm(parts, axis=1, keepdims=True)
        power, bits = self._best(parts / jnp.where(size > 0, size, 1), shape)
        # Of so many nonces the best: the chance that one at least looks like this.
        score = np.asarray(power, np.float64)
        alone = (
            stats.chi2.logsf(score, self.bits)
            if self.message is None
            else stats.norm.logsf(score / self.bits**0.5)
        )
        with np.errstate(divide="ignore"):
            p_value = -np.expm1(self.nonces * np.log1p(-np.exp(alone)))
        return Found(p_value, np.asarray(bits))

    def _best(
        self, parts: Float[Array, "N r k"], shape: tuple[int, int, int]
    ) -> tuple[Float[Array, "N"], Bool[Array, "N k"]]:
        """Under the nonce that fits best: the score and the bits.

        Of k normal numbers, one a bit, the score is the sum with the message's signs, or that of
        the squares for any message.
        """

        def of_chunk(
            best: tuple[Float[Array, "N"], Bool[Array, "N k"]], first: Array
        ) -> tuple[tuple[Float[Array, "N"], Bool[Array, "N k"]], None]:
            nonces = first + jnp.arange(AT_ONCE)
            streams = jax.vmap(lambda nonce: self._stream(nonce, shape))(nonces)
            scores = jnp.einsum("Nrk,Mrk->NMk", parts, streams, precision="highest")
            power = (
                (scores**2).sum(-1)
                if self.message is None
                else (scores * self._told(self.message)).sum(-1)
            )
            power = jnp.where(nonces < self.nonces, power, -jnp.inf)
            at = power.argmax(1)
            own = power.max(1), jnp.take_along_axis(scores, at[:, None, None], 1)[:, 0] > 0
            better = own[0] > best[0]
            return (
                jnp.where(better, own[0], best[0]),
                jnp.where(better[:, None], own[1], best[1]),
            ), None

        count = len(parts)
        start = jnp.full(count, -jnp.inf), jnp.zeros((count, self.bits), bool)
        return jax.lax.scan(of_chunk, start, jnp.arange(0, self.nonces, AT_ONCE))[0]

    def _told(self, message: int) -> Int[np.ndarray, " k"]:
        """The message's bits as signs, the lowest first."""
        return np.asarray([(message >> i & 1) * 2 - 1 for i in range(self.bits)])

    def _stream(self, nonce: Array, shape: tuple[int, int, int]) -> Float[Array, "r k"]:
        """The key stream of a nonce: a unit normal number for each repeat of each bit."""
        key: Key[Array, ""] = jax.random.fold_in(key_of(self.secret), nonce)
        return jax.random.normal(key, (int(np.prod(shape)) // self.bits, self.bits))

    def _check(self, shape: tuple[int, int, int]) -> None:
        if np.prod(shape) < self.bits:
            raise UserError(
                f"gaussian_shading(bits={self.bits}): noise of {int(np.prod(shape))} numbers has "
                "no room for so many"
            )
