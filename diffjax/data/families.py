"""Caption families: pictures that share a caption are held out together, or not at all.

A test picture whose caption is also in the training split measures memory and not retrieval.
"""

from collections.abc import Iterable, Sequence

import numpy as np
from jaxtyping import Int

from diffjax.data.base import HELD_OUT, Split, split_up
from diffjax.errors import UserError


def normalised(caption: str) -> str:
    """The caption casefolded, with one space for each run of white space and none at the ends."""
    return " ".join(caption.casefold().split())


def families(keys: Sequence[Iterable[str]]) -> Int[np.ndarray, "N"]:
    """The family of each picture, given the keys of each: captions, or names of families.

    Two pictures are of one family where they share a key, or where a chain of such pictures links
    them. Families are numbered by first appearance. A picture without a key is a family alone.
    """
    parent = list(range(len(keys)))

    def root(index: int) -> int:
        while parent[index] != index:
            parent[index] = parent[parent[index]]  # so that later walks are short
            index = parent[index]
        return index

    first: dict[str, int] = {}
    for index, own in enumerate(keys):
        for key in own:
            a, b = root(index), root(first.setdefault(normalised(key), index))
            parent[max(a, b)] = min(a, b)  # a root is the first picture of its family
    roots = [root(index) for index in range(len(keys))]
    number = {first_of: n for n, first_of in enumerate(dict.fromkeys(roots))}
    return np.asarray([number[r] for r in roots], int)


def split_families(numbers: Int[np.ndarray, "N"]) -> dict[Split, np.ndarray]:
    """The indices of each split of pictures of these families, numbered as by `families`.

    Every tenth family is for testing, from the first; the only family is for training.
    """
    count = int(numbers.max(initial=-1)) + 1
    parts = split_up(np.zeros(count))
    return {name: np.flatnonzero(np.isin(numbers, own)) for name, own in parts.items()}


def check_any_family(chosen: Sequence[int] | np.ndarray, split: Split, where: str) -> None:
    """Raises UserError, which names the set as `where`, for a split without a family."""
    if not len(chosen):
        raise UserError(
            f"{where} has too few families of captions to leave one for the {split} split: one in "
            f"{HELD_OUT} is held out for testing; add pictures with other captions"
        )
