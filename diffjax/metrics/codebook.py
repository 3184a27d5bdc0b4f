"""How much of a codebook is used, from one count of codes."""

import numpy as np
from jaxtyping import Int

from diffjax.errors import UserError


def code_counts(indices: Int[np.ndarray, "*n"], num_codes: int) -> Int[np.ndarray, "K"]:
    """How often each code occurs. Counts of parts of a set add up.

    Raises UserError for an index that is not from 0 to num_codes - 1.
    """
    flat = np.asarray(indices).ravel()
    if flat.size and not 0 <= flat.min() <= flat.max() < num_codes:
        raise UserError(
            f"indices from {flat.min()} to {flat.max()}, where there are {num_codes} codes: "
            "give the number of codes of the quantiser"
        )
    return np.bincount(flat, minlength=num_codes)


def usage(counts: Int[np.ndarray, "K"]) -> float:
    """The share of codes that occur, from 1 / K to 1. Raises UserError where no code does."""
    _check_some(counts)
    return float(np.mean(counts > 0))


def perplexity(counts: Int[np.ndarray, "K"]) -> float:
    """exp of the entropy of the codes, from 1 (one code) to K (all codes equally often).

    Raises UserError where no code occurs. van den Oord et al. 2017 watch training by it.
    """
    _check_some(counts)
    shares = counts[counts > 0] / counts.sum()
    return float(np.exp(-np.sum(shares * np.log(shares))))


def _check_some(counts: Int[np.ndarray, "K"]) -> None:
    if not counts.sum():
        raise UserError("there is no usage of no codes: count the indices of one image or more")
