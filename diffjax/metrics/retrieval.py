"""How well embeddings find what belongs together: ranks, recall, classes from their names."""

from collections.abc import Callable, Iterator, Sequence

import jax.numpy as jnp
import numpy as np
from jax import Array
from jaxtyping import Bool, Float, Int

from diffjax.errors import UserError
from diffjax.metrics.embeddings import normalised
from diffjax.metrics.intervals import REPLICATES, Interval, halves, interval, wilson

KS = (1, 5, 10)
ROWS = 1024  # drawn for at a time: memory grows with their product with the columns


def ranks(
    similarity: Float[Array, "N M"] | Float[np.ndarray, "N M"],
    right: Bool[Array, "N M"] | Bool[np.ndarray, "N M"],
) -> Int[Array, "N"]:
    """For each row how many wrong columns are at least as similar as the best right one; 0 is best.

    Ties count against the row, and so does what is not a number. A row without a right column has
    all its columns above it. Pure: it can be jitted.
    """
    similarity, right = jnp.asarray(similarity), jnp.asarray(right)
    best = jnp.max(jnp.where(right, similarity, -jnp.inf), axis=1, keepdims=True)
    # Not `>=`, which is false of NaN: a network that returns NaN would be first everywhere.
    return jnp.sum(~right & ~(similarity < best), axis=1)


def recall_at(
    ranks: Int[Array, "N"] | Int[np.ndarray, "N"], ks: Sequence[int] = KS
) -> dict[int, float]:
    """For each k the share of rows with a rank below k, so with a right column among the first k.

    Raises ValueError where there are no rows.
    """
    if not len(ranks):
        raise ValueError("there is no recall of no rows")
    return {k: float((np.asarray(ranks) < k).mean()) for k in ks}


def recall_interval(
    hits: Bool[np.ndarray, "N"], captions: Int[np.ndarray, "N"], seed: int
) -> Interval:
    """An interval of 95% for the share of `hits`, where rows with one caption are no new evidence.

    Wilson's where every caption occurs once. Otherwise whole captions are drawn, each with all its
    rows (the cluster bootstrap, here with the halves of `intervals`: Davison & Hinkley 1997,
    sec. 3.8). Hits that are all equal do not spread at all: then the interval is Wilson's for as
    many rows as there are captions. Raises ValueError where there are no rows.
    """
    _, cluster = np.unique(captions, return_inverse=True)
    sizes = np.bincount(cluster)
    if (sizes == 1).all():
        return wilson(int(hits.sum()), len(hits))
    if hits.all() or not hits.any():
        return wilson(len(sizes) * int(hits[0]), len(sizes))
    if len(sizes) == 1:
        return Interval(0.0, 1.0)  # one caption says nothing of others
    kept = halves(len(sizes), REPLICATES, np.random.default_rng(seed))
    found = np.bincount(cluster, weights=hits)
    return interval((kept @ found) / (kept @ sizes), 0, 1)


def candidates(
    own: Int[np.ndarray, "N"], total: int, count: int, seed: int
) -> Int[np.ndarray, "N {count}"]:
    """For each row `count` distinct columns of `total`: its own first, the others at random.

    Drawn with np.random.RandomState(seed), whose numbers do not change from one release of NumPy to
    the next. Raises UserError for fewer columns than `count`.
    """
    if not 1 <= count <= total:
        raise UserError(
            f"{count} candidates cannot be drawn from {total} distinct captions: ask for "
            f"1 to {total}"
        )
    random = np.random.RandomState(seed)
    drawn = [_drawn(rows, total, count, random) for rows in _blocks(own)]
    return np.concatenate(drawn) if drawn else np.zeros((0, count), int)


def ranks_among(
    similarity: Float[np.ndarray, "N M"], own: Int[np.ndarray, "N"], count: int, seed: int
) -> Int[np.ndarray, "N"]:
    """The rank of each row's own column among `count` candidates, as `ranks`; 0 is best.

    Columns are distinct captions; row i, a picture, has the caption `own[i]`. The other candidates
    are drawn by `candidates`. Raises UserError for fewer captions than `count`.
    """
    chosen = candidates(own, similarity.shape[1], count, seed)
    return ranks_of_first(np.take_along_axis(similarity, chosen, axis=1))


def ranks_of_first(similarity: Float[np.ndarray, "N M"]) -> Int[np.ndarray, "N"]:
    """The rank of the first column of each row, as `ranks`: of similarities to `candidates`."""
    return (~(similarity[:, 1:] < similarity[:, :1])).sum(1)


def class_embeddings(
    encode_texts: Callable[[list[str]], Float[np.ndarray, "T D"]],
    names: Sequence[str],
    templates: Sequence[str],
) -> Float[np.ndarray, "C D"]:
    """One unit vector per class: the mean of its templates' unit embeddings, normalised again.

    Each template has a place '{}' for the name. Raises UserError for a template without one, and
    where there is no template. Radford et al. 2021, sec. 3.1.4.
    """
    if not templates:
        raise UserError("there is no template for names of classes: give one, as 'a photo of a {}'")
    for template in templates:
        if "{}" not in template:
            raise UserError(
                f"template {template!r} has no place for a name: write '{{}}' where the name goes"
            )
    # Not str.format, which would read other braces of the template too.
    texts = [template.replace("{}", name) for name in names for template in templates]
    embedded = np.asarray(normalised(np.asarray(encode_texts(texts))))
    means = embedded.reshape(len(names), len(templates), -1).mean(1)
    return np.asarray(normalised(means))


def _blocks(own: Int[np.ndarray, "N"]) -> Iterator[Int[np.ndarray, " _"]]:
    return (own[start : start + ROWS] for start in range(0, len(own), ROWS))


def _drawn(
    own: Int[np.ndarray, "B"], total: int, count: int, random: np.random.RandomState
) -> Int[np.ndarray, "B {count}"]:
    """The columns with the least of so many random numbers, and the own one before them."""
    keys = random.random_sample((len(own), total))
    keys[np.arange(len(own)), own] = -1
    least = np.argpartition(keys, count - 1, axis=1)[:, :count]
    order = np.argsort(np.take_along_axis(keys, least, axis=1), axis=1)
    return np.take_along_axis(least, order, axis=1)
