"""What torch calls a network's tensors, and the shapes it gives them."""

import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from flax import traverse_util
from jax import Array

from diffjax.errors import UserError
from diffjax.typing import Params

LEAVES = {
    "kernel": "weight",
    "scale": "weight",
    "embedding": "weight",
    "mean": "running_mean",
    "var": "running_var",
}

Put = Callable[[np.ndarray], Array]  # a parameter's numbers -> the parameter, on its devices


class Slot(NamedTuple):
    """Where one of torch's tensors belongs in our tree, and the shape it has there."""

    path: tuple[str, ...]
    shape: tuple[int, ...]


def torch_name(path: tuple[str, ...], lists: str) -> str:
    """down_blocks_0/resnets_1/conv1/kernel → down_blocks.0.resnets.1.conv1.weight.

    `lists` is a pattern of the modules that torch counts in a list and Linen in the name.
    """
    modules = [re.sub(rf"^({lists})_(\d+)$", r"\1.\2", name) for name in path[:-1]]
    return ".".join([*modules, LEAVES.get(path[-1], path[-1])])


def slots(shapes: Params, lists: str) -> dict[str, Slot]:
    """Every parameter of a tree of shapes, by the name that torch knows it by."""
    flat = traverse_util.flatten_dict(shapes)
    return {torch_name(path, lists): Slot(path, leaf.shape) for path, leaf in flat.items()}


def to_tree(
    where: str,
    tensors: Mapping[str, np.ndarray],
    wanted: Mapping[str, Slot],
    network: str,
    put: Put = jnp.asarray,
) -> Params:
    """torch's tensors as our parameters. Raises UserError for tensors of another network."""
    check_names(where, tensors, wanted, network)
    tree = {}
    for name, (path, shape) in wanted.items():
        given = tensors[name]
        value = transpose(given, path[-1])
        if value.shape != shape:
            raise UserError(f"{where}: {name} has shape {given.shape}, which does not fit")
        tree[path] = put(value)
    unflat: Params = traverse_util.unflatten_dict(tree)
    return unflat


def to_tensors(
    params: Params, wanted: Mapping[str, Slot], lists: str, network: str
) -> dict[str, np.ndarray]:
    """Our parameters as torch's float32 tensors. Raises UserError for those of another network."""
    flat = traverse_util.flatten_dict(params)
    given = {torch_name(path, lists): np.asarray(v, np.float32) for path, v in flat.items()}
    check_names("params", given, wanted, network)
    for name, (path, shape) in wanted.items():
        if given[name].shape != shape:
            raise UserError(f"params: {'/'.join(path)} has {given[name].shape}, not {shape}")
        given[name] = transpose(given[name], path[-1], back=True)
    return given


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
