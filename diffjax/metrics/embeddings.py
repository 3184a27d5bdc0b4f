"""Geometry of two sets of embeddings on the unit sphere, as CLIP compares them.

Every function takes rows of any length but zero, scales them to unit length, and computes in
float32 (float64 where JAX has it enabled). All are pure and can be jitted and differentiated.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Float

ROOM = 2  # exp(-t |xi - xj|²) in `uniformity`: t, as in the paper
PRECISE = jax.lax.Precision.HIGHEST  # accelerators round float32 products to 8 or 11 bits otherwise


def normalised(
    x: Float[Array, "*B D"] | Float[np.ndarray, "*B D"], eps: float = 1e-12
) -> Float[Array, "*B D"]:
    """Rows of length 1. A row shorter than `eps` is divided by `eps`, so a zero row stays zero."""
    x = jnp.asarray(x)
    x = x.astype(jnp.promote_types(x.dtype, jnp.float32))
    squared = jnp.sum(x * x, axis=-1, keepdims=True)
    # The maximum is below the root: the root of 0 has no slope.
    return x / jnp.sqrt(jnp.maximum(squared, eps**2))


def alignment(
    x: Float[Array, "N D"] | Float[np.ndarray, "N D"],
    y: Float[Array, "N D"] | Float[np.ndarray, "N D"],
) -> Float[Array, ""]:
    """Mean squared distance between paired unit vectors, in [0, 4]; lower is better.

    Row i of `x` and row i of `y` are a pair. Wang & Isola 2020, Understanding Contrastive
    Representation Learning through Alignment and Uniformity on the Hypersphere, sec. 4.1, with
    alpha = 2.
    """
    return jnp.mean(jnp.sum((normalised(x) - normalised(y)) ** 2, axis=-1))


def uniformity(x: Float[Array, "N D"] | Float[np.ndarray, "N D"]) -> Float[Array, ""]:
    """log of the mean of exp(-2 |xi - xj|²) over all pairs i < j, in [-8, 0]; lower is better.

    `x` has 2 rows or more; of fewer the mean is not a number. Memory grows with N². Wang & Isola
    2020, sec. 4.1, with t = 2.
    """
    x = normalised(x)
    count = len(x)
    if count < 2:
        return jnp.full((), jnp.nan, x.dtype)
    gram = jnp.matmul(x, x.T, precision=PRECISE)
    pairs = jnp.triu(jnp.ones((count, count), bool), 1)
    squared = jnp.maximum(0, 2 - 2 * gram)
    total = jax.nn.logsumexp(-ROOM * squared, where=pairs)
    return total - jnp.log(count * (count - 1) / 2)


def modality_gap(
    x: Float[Array, "N D"] | Float[np.ndarray, "N D"],
    y: Float[Array, "M D"] | Float[np.ndarray, "M D"],
) -> Float[Array, ""]:
    """Distance between the means of two sets of unit vectors, in [0, 2].

    Liang et al. 2022, Mind the Gap: Understanding the Modality Gap in Multi-modal Contrastive
    Representation Learning, sec. 4.2.
    """
    return jnp.linalg.norm(normalised(x).mean(0) - normalised(y).mean(0))


def effective_rank(x: Float[Array, "N D"] | Float[np.ndarray, "N D"]) -> Float[Array, ""]:
    """Number of directions that unit vectors fill about their mean, in [1, min(N - 1, D)].

    exp of the entropy of the singular values, divided by their sum; 1 where all rows are equal.
    Roy & Vetterli 2007, The Effective Rank: A Measure of Effective Dimensionality, which does not
    subtract the mean. It is subtracted here: embeddings of one tower lie in a narrow cone, whose
    axis is one large singular value.
    """
    x = normalised(x)
    singular = jnp.linalg.svd(x - x.mean(0), compute_uv=False)
    share = singular / jnp.maximum(singular.sum(), jnp.finfo(x.dtype).tiny)
    # 0 log 0 is 0: the logarithm of a stand-in keeps the value and its slope finite.
    return jnp.exp(-jnp.sum(share * jnp.log(jnp.where(share > 0, share, 1))))


@jax.jit  # one program to compile, not one per operation
def geometry(
    images: Float[Array, "N D"] | Float[np.ndarray, "N D"],
    texts: Float[Array, "N D"] | Float[np.ndarray, "N D"],
    distinct: Float[Array, "M D"] | Float[np.ndarray, "M D"],
) -> dict[str, Float[Array, ""]]:
    """All of these measures of pairs of images and texts.

    `distinct` are the texts without repetition, of which two would be a pair at distance 0.
    """
    return {
        "alignment": alignment(images, texts),
        "modality_gap": modality_gap(images, texts),
        "uniformity_of_images": uniformity(images),
        "uniformity_of_texts": uniformity(distinct),
        "rank_of_images": effective_rank(images),
        "rank_of_texts": effective_rank(distinct),
    }
