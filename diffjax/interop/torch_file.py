"""The weights and statistics of a torch network, from a file that holds no code."""

import re
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax import traverse_util

from diffjax.arrays import read_npz
from diffjax.errors import UserError
from diffjax.interop import safetensors
from diffjax.interop.torch_names import LEAVES, check_names, transpose
from diffjax.typing import Params

MOST = 2**28  # bytes: more than the largest network here has as 64-bit floats
COUNTERS = r".*\.num_batches_tracked"  # which batch norms keep of their training


def read(path: Path, unused: str) -> dict[str, np.ndarray]:
    """The float32 tensors of a .safetensors or .npz file, without those whose names are `unused`.

    Raises UserError for a file that is not there, is damaged, or holds other than floats.
    """
    if path.suffix == ".safetensors":
        return safetensors.read(path, unused)
    if path.suffix != ".npz":
        raise UserError(
            f"{path} is neither .safetensors nor .npz; torch's own files are Python pickles, which "
            "can run code: numpy.savez('weights.npz', **torch.load('weights.pth')) converts one"
        )
    tensors = read_npz(path, MOST, lambda name: not re.fullmatch(unused, name))
    for name, value in tensors.items():
        if value.dtype.kind != "f":
            raise UserError(f"{path}: {name} holds {value.dtype}, not floats")
    return {name: value.astype(np.float32) for name, value in tensors.items()}


def load_variables(path: Path, model: nn.Module, size: int, unused: str) -> Params:
    """What `model.apply` takes for square images of `size` and three channels.

    The model's parts have torch's names. `unused` is a pattern of names that the file may have
    besides. Raises UserError as `read` does, and for tensors of another network.
    """
    path = path.expanduser()
    tensors = read(path, f"{COUNTERS}|{unused}")
    images = jax.ShapeDtypeStruct((1, size, size, 3), jnp.float32)
    shapes = traverse_util.flatten_dict(jax.eval_shape(model.init, jax.random.key(0), images))
    named = {".".join([*where[1:-1], LEAVES.get(where[-1], where[-1])]): where for where in shapes}
    network = type(model).__name__
    check_names(str(path), tensors, named, network)
    tree = {}
    for name, where in named.items():
        value = transpose(tensors[name], where[-1])
        if value.shape != shapes[where].shape:
            raise UserError(f"{path}: {name} has shape {tensors[name].shape}, not {network}'s")
        tree[where] = jnp.asarray(value)
    return traverse_util.unflatten_dict(tree)
