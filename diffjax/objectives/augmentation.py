"""Images and texts that are changed a little each time they are learnt from."""

import dataclasses

import jax
import jax.numpy as jnp
from jaxtyping import Array, Float, Int32, Key

from diffjax.errors import UserError
from diffjax.typing import Images, Keys

Ids = Int32[Array, "B L"]


@dataclasses.dataclass(frozen=True)
class Augmentation:
    """How much images and texts are changed; 0 is not at all.

    flip: whether images are turned left to right, every second time. shift: by how much of its side
    an image is moved at most. zoom: an image is enlarged or shrunk by at most 1 + zoom. colour:
    brightness, contrast and saturation change by at most so much, 1 being all. words: the
    probability that a token of a text is left out. Raises UserError for what is out of range.
    """

    flip: bool = False
    shift: float = 0.0
    zoom: float = 0.0
    colour: float = 0.0
    words: float = 0.0

    def __post_init__(self) -> None:
        for name, least, most in (("shift", 0, 1), ("zoom", 0, 8), ("colour", 0, 1)):
            if not least <= getattr(self, name) <= most:
                raise UserError(f"{name}={getattr(self, name)}: choose {least} to {most}", name)
        if not 0 <= self.words < 1:
            raise UserError(f"words={self.words}: choose 0 up to, but not, 1", "words")

    def images(self, keys: Keys, images: Images) -> Images:
        """Images in [-1, 1], each changed by its own key; what comes in repeats the edge."""
        if self.flip or self.shift or self.zoom:
            images = jax.vmap(self._moved)(keys, images)
        return jax.vmap(self._coloured)(keys, images) if self.colour else images

    def texts(self, keys: Keys, ids: Ids, end: int, pad: int) -> Ids:
        """Texts without some of their tokens, by their own keys.

        The first token and the first `end` token stay. Tokens that stay move up, and `pad` follows.
        """
        if not self.words:
            return ids
        return jax.vmap(lambda key, row: self._shortened(key, row, end, pad))(keys, ids)

    def _moved(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        flip, zoom, move = jax.random.split(jax.random.fold_in(key, 0), 3)
        limit = jnp.log1p(self.zoom)
        scale = jnp.exp(jax.random.uniform(zoom, (), minval=-limit, maxval=limit))
        sides = jnp.asarray(image.shape[:2])
        shift = jax.random.uniform(move, (2,), minval=-self.shift, maxval=self.shift) * sides
        if self.flip:
            image = jnp.where(jax.random.bernoulli(flip), image[:, ::-1], image)
        rows, columns = (
            _sampled(side, scale, by) for side, by in zip(image.shape[:2], shift, strict=True)
        )
        return jnp.einsum("ih,jw,hwc->ijc", rows, columns, image)

    def _coloured(self, key: Key[Array, ""], image: Float[Array, "H W C"]) -> Float[Array, "H W C"]:
        draw = jax.random.uniform(
            jax.random.fold_in(key, 1), (3,), minval=-self.colour, maxval=self.colour
        )
        brightness, contrast, saturation = draw
        mean = image.mean()
        image = mean + (1 + contrast) * (image - mean) + brightness
        grey = image.mean(-1, keepdims=True)
        return grey + (1 + saturation) * (image - grey)

    def _shortened(
        self, key: Key[Array, ""], row: Int32[Array, "L"], end: int, pad: int
    ) -> Int32[Array, "L"]:
        inside = jnp.arange(len(row)) < (row == end).argmax()
        gone = inside & jax.random.bernoulli(jax.random.fold_in(key, 2), self.words, row.shape)
        gone = gone.at[0].set(False)
        order = jnp.argsort(gone, stable=True)
        kept = jnp.arange(len(row)) < len(row) - gone.sum()
        return jnp.where(kept, row[order], pad)


def _sampled(side: int, scale: Float[Array, ""], shift: Float[Array, ""]) -> Float[Array, "N N"]:
    """The weights of a row's pixels in each pixel of it enlarged about its middle and moved.

    Linear between pixels. The edge is repeated.
    """
    middle = (side - 1) / 2
    source = (jnp.arange(side) - middle - shift) / scale + middle
    source = jnp.clip(source, 0, side - 1)
    return jnp.maximum(0, 1 - jnp.abs(source[:, None] - jnp.arange(side)))
