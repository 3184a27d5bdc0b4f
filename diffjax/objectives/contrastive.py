"""Losses of pairs of images and texts, each against all others of the whole batch."""

from collections.abc import Callable, Mapping
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
from jax import lax
from jaxtyping import Array, Bool, Float, Int32

from diffjax.typing import Gather, Params

Embeddings = Float[Array, "B D"]
Captions = Int32[Array, "B"]
Contrast = Literal["softmax", "sigmoid"]
# (params, keys, batch) -> embeddings of images and of texts, not normalised
Encode = Callable[[Params, Any, Mapping[str, Array]], tuple[Embeddings, Embeddings]]


class Pairs(NamedTuple):
    """Unit embeddings of a share of the batch, and of the whole batch.

    `captions` is equal for equal captions: another picture's equal caption is no wrong answer.
    """

    images: Embeddings
    texts: Embeddings
    captions: Captions
    all_images: Float[Array, "N D"]
    all_texts: Float[Array, "N D"]
    all_captions: Int32[Array, "N"]

    @property
    def similar(self) -> Float[Array, "B"]:
        """The cosine of each image with its own text."""
        return (self.images * self.texts).sum(-1)


def contrastive_loss(
    encode: Encode, contrast: Contrast, pieces: int = 1
) -> Callable[..., tuple[Float[Array, ""], dict[str, Array]]]:
    """A whole-batch loss (params, keys, batch, gather) -> (loss, metrics); see `Loss`.

    `softmax` is CLIP's symmetric cross entropy (Radford et al. 2021, fig. 3) and `sigmoid` SigLIP's
    loss of each pair by itself (Zhai et al. 2023, alg. 1), both in nats. `params` holds
    `logit_scale`, the logarithm of the inverse temperature, and for `sigmoid` `logit_bias`. The
    batch holds `caption` besides what `encode` reads.

    With `pieces` the embeddings are computed piece by piece, and again for the gradient (Gao et al.
    2021, GradCache): memory holds the activations of one piece. Value and gradient stay the same.
    """

    def loss(
        params: Params, keys: Any, batch: Mapping[str, Array], gather: Gather
    ) -> tuple[Float[Array, ""], dict[str, Array]]:
        images, texts = _in_pieces(encode, params, keys, batch, pieces)
        share = _unit(images), _unit(texts), batch["caption"]
        pairs = Pairs(*share, *gather(share))
        scale = jnp.exp(params["logit_scale"])
        if contrast == "softmax":
            own, right = softmax_loss(pairs, scale)
        else:
            own, right = _sigmoid(pairs, scale, params["logit_bias"], pieces)
        whole = gather(own[None]).mean()
        return whole, {"accuracy": right, "temperature": 1 / scale}

    return loss


def _in_pieces(
    encode: Encode, params: Params, keys: Any, batch: Mapping[str, Array], pieces: int
) -> tuple[Embeddings, Embeddings]:
    if pieces == 1:
        return encode(params, keys, batch)

    def cut(array: Array) -> Array:
        return array.reshape(pieces, len(array) // pieces, *array.shape[1:])

    # What is recomputed for the gradient need not be kept: that alone is the cache.
    one = jax.checkpoint(lambda piece: encode(params, *piece))
    parts = lax.map(one, jax.tree.map(cut, (keys, dict(batch))))
    return jax.tree.map(lambda part: part.reshape(-1, part.shape[-1]), parts)


def softmax_loss(
    pairs: Pairs, scale: Float[Array, ""] | float
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """Cross entropy of the right text among all, and of the right image; the share found."""
    similar = pairs.similar
    losses, found = [], []
    for own, others in ((pairs.images, pairs.all_texts), (pairs.texts, pairs.all_images)):
        wrong = jnp.where(_same(pairs), -jnp.inf, scale * own @ others.T)
        wrong_sum = jax.nn.logsumexp(wrong, axis=1, where=~_same(pairs))
        losses.append(jnp.logaddexp(wrong_sum, scale * similar) - scale * similar)
        found.append(scale * similar > wrong.max(1))
    return jnp.stack(losses).mean(), jnp.stack(found).mean()


def _sigmoid(
    pairs: Pairs, scale: Float[Array, ""], bias: Float[Array, ""], pieces: int
) -> tuple[Float[Array, ""], Float[Array, ""]]:
    """The loss of each image with each text, per image; the texts come in chunks.

    A chunk is a piece of a device's share, so that logits of share times piece are held at a time.
    """
    size = len(pairs.images) // pieces
    chunks = jax.tree.map(
        lambda rows: rows.reshape(-1, size, *rows.shape[1:]), (pairs.all_texts, pairs.all_captions)
    )

    @jax.checkpoint
    def of_chunk(chunk: tuple[Embeddings, Captions]) -> tuple[Array, Array]:
        texts, captions = chunk
        same = pairs.captions[:, None] == captions
        cosines = pairs.images @ texts.T
        wrong = jnp.where(same, 0.0, jax.nn.softplus(scale * cosines + bias))
        return wrong.sum(1), jnp.where(same, -jnp.inf, cosines).max(1)

    wrong, nearest = lax.map(of_chunk, chunks)
    right = jax.nn.softplus(-(scale * pairs.similar + bias))
    return (right + wrong.sum(0)).mean(), (pairs.similar > nearest.max(0)).mean()


def _same(pairs: Pairs) -> Bool[Array, "B N"]:
    return pairs.captions[:, None] == pairs.all_captions


def _unit(x: Embeddings) -> Embeddings:
    return x / jnp.linalg.norm(x, axis=-1, keepdims=True)
