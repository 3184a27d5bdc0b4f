"""One digest of weights, whatever file or device holds them."""

import hashlib

import jax
import numpy as np

from diffjax.typing import Params


def checksum(params: Params) -> str:
    """SHA-256 of nested dicts of arrays: the path, shape, dtype and bytes of each, in hex.

    Paths are sorted and bytes are little-endian: neither the order of a dict nor the machine
    counts. Runs are named by the digests of their sources, so a change here makes them other runs.
    """
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(jax.device_get(params)):
        array = np.asarray(leaf)
        name = f"{jax.tree_util.keystr(path)}{array.shape}{array.dtype.name}"
        digest.update(name.encode())
        digest.update(array.astype(array.dtype.newbyteorder("<"), copy=False).tobytes())
    return digest.hexdigest()
