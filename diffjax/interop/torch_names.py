"""What torch calls a network's tensors, and the shapes it gives them."""

from collections.abc import Mapping

import numpy as np

from diffjax.errors import UserError

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}


def transpose(value: np.ndarray, leaf: str, *, back: bool = False) -> np.ndarray:
    """torch's kernels are (out, in) and (out, in, height, width), ours (height, width, in, out)."""
    if leaf != "kernel":
        return value
    if value.ndim == 2:
        return value.T
    return value.transpose((3, 2, 0, 1) if back else (2, 3, 1, 0)) if value.ndim == 4 else value


def check_names(
    where: str, given: Mapping[str, object], wanted: Mapping[str, object], network: str
) -> None:
    """Raises UserError, naming one, for names that are missing or that the network has not."""
    for problem, names in (
        ("lacks", wanted.keys() - given),
        ("has unknown", given.keys() - wanted),
    ):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(f"{where} {problem} {min(names)}{more}: it is not of this {network}")
