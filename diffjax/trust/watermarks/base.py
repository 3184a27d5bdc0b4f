"""What a watermark in the noise is."""

import abc
import hashlib
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Bool, Float, Key

from diffjax.errors import UserError
from diffjax.typing import Images, Keys


class Found(NamedTuple):
    """What is found in N noises.

    p_value: the chance that noise without the mark looks as marked as this; uniform where there is
    none. bits: of the message, the likeliest; None of a mark without a message.
    """

    p_value: Float[np.ndarray, "N"]
    bits: Bool[np.ndarray, "N k"] | None = None


class Watermark(abc.ABC):
    """A mark in unit noise, which an image keeps: sampling can be walked back (DDIM inversion)."""

    @abc.abstractmethod
    def noise(self, keys: Keys, shape: tuple[int, int, int]) -> Images:
        """Unit noise with the mark, one a sample. Raises UserError for a shape without room."""

    @abc.abstractmethod
    def find(self, noise: Float[np.ndarray, "N h w c"]) -> Found:
        """The mark in the noises of images, 0 where they are not known.

        Raises UserError as `noise` does.
        """


def check_secret(secret: str) -> None:
    """Raises UserError for an empty secret."""
    if not secret:
        raise UserError("a watermark needs a secret: give secret='words that nobody guesses'")


def key_of(secret: str) -> Key[Array, ""]:
    """The key of all that a secret decides."""
    digest = hashlib.sha256(secret.encode()).digest()
    data = np.frombuffer(digest[:8], "<u4").astype(np.uint32)
    return jax.random.wrap_key_data(jnp.asarray(data), impl="threefry2x32")
