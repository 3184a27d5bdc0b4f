"""Whether a picture finds its caption among others, and a caption its picture."""

from collections.abc import Callable
from typing import Any

import numpy as np
from jaxtyping import Float, Int

from diffjax.data import Records
from diffjax.errors import UserError
from diffjax.metrics.embeddings import geometry
from diffjax.metrics.retrieval import KS, candidates, ranks_of_first, recall_at, recall_interval
from experiments.matches.paired import AT_A_TIME, Paired, TwoTowers, pair

AMONG = 100  # candidates, or all captions where there are fewer
PAIRS = 4096  # pictures for the geometry: uniformity compares all with all
TITLES = {"image_to_text": "caption of a picture", "text_to_image": "picture of a caption"}


def report(
    towers: TwoTowers, records: Records, seed: int, say: Callable[[str], object]
) -> dict[str, Any]:
    """Recall both ways with intervals of 95%, and the geometry of the embeddings; JSON's types.

    Every picture is asked for its caption among AMONG distinct captions, and its caption for it
    among as many pictures, one per caption. Pictures that share a caption count as one cluster
    in the intervals. Raises UserError for records without captions, or with a single one.
    """
    paired = pair(towers, records)
    count = min(AMONG, len(paired.captions))
    if count < 2:
        raise UserError("all images have the same caption: recall needs 2 distinct captions")
    chosen = candidates(paired.own, len(paired.captions), count, seed)
    pictures = _pictures(paired.own, chosen, seed)
    ranks = {
        "image_to_text": _ranks(paired.images, paired.texts, chosen),
        "text_to_image": _ranks(paired.texts[paired.own], paired.images, pictures),
    }
    found = {
        "towers": towers.name,
        "seed": seed,
        "pictures": len(paired.own),
        "captions": len(paired.captions),
        "candidates": count,
        **{way: _recalls(of, paired.own, count, seed) for way, of in ranks.items()},
        "geometry": _geometry(paired, seed),
    }
    for line in lines(found):
        say(line)
    return found


def lines(found: dict[str, Any]) -> list[str]:
    """The report, as it is printed."""
    told = [
        f"{found['towers']}: recall among {found['candidates']} candidates, "
        f"{found['pictures']:,} pictures with {found['captions']:,} captions"
    ]
    for way, title in TITLES.items():
        for k, of in found[way].items():
            low, high = of["interval"]
            told.append(
                f"{title:<22} @{k:<3}{of['recall']:>7.1%}  (95%: {low:.1%} to {high:.1%}; "
                f"chance {of['chance']:.1%})"
            )
    for name, value in found["geometry"].items():
        told.append(f"{name.replace('_', ' '):<26}{value:>8.3f}")
    return told


def _recalls(
    ranks: Int[np.ndarray, "N"], own: Int[np.ndarray, "N"], count: int, seed: int
) -> dict[str, Any]:
    """By k, as long as chance does not reach 1."""
    ks = [k for k in KS if k < count]
    return {
        str(k): {
            "recall": recall,
            "interval": list(recall_interval(ranks < k, own, seed)),
            "chance": k / count,
        }
        for k, recall in recall_at(ranks, ks).items()
    }


def _pictures(
    own: Int[np.ndarray, "N"], chosen: Int[np.ndarray, "N K"], seed: int
) -> Int[np.ndarray, "N K"]:
    """Of each chosen caption one of its pictures at random, but first picture i itself."""
    order, sizes = np.argsort(own, kind="stable"), np.bincount(own)
    starts = np.cumsum(sizes) - sizes
    random = np.random.RandomState([seed, 1])  # not those numbers that the captions came from
    place = (random.random_sample(chosen.shape) * sizes[chosen]).astype(int)
    pictures = order[starts[chosen] + place]
    pictures[:, 0] = np.arange(len(own))
    return pictures


def _ranks(
    queries: Float[np.ndarray, "N D"],
    keys: Float[np.ndarray, "M D"],
    chosen: Int[np.ndarray, "N K"],
) -> Int[np.ndarray, "N"]:
    """The rank of the first chosen key, query by query."""
    found = []
    for start in range(0, len(queries), AT_A_TIME):
        rows = slice(start, start + AT_A_TIME)
        cosines = np.einsum("nd,nkd->nk", queries[rows], keys[chosen[rows]])
        found.append(ranks_of_first(cosines.astype(np.float32)))  # equal keys tie after rounding
    return np.concatenate(found)


def _geometry(paired: Paired, seed: int) -> dict[str, float]:
    """Of all pairs, or of so many."""
    rows = np.random.RandomState(seed).permutation(len(paired.own))[:PAIRS]
    own = paired.own[rows]
    distinct = paired.texts[np.unique(own)]
    found = geometry(paired.images[rows], paired.texts[own], distinct)
    return {name: float(value) for name, value in found.items()}
