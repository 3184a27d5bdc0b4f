"""Networks with state that no gradient moves, such as running statistics.

A network takes this state from the tree that it is applied to, beside its trained parameters:
{"params": {..., "batch_stats": ...}}. So samplers and evaluation treat all networks alike. Training
keeps the two apart: `split_state` cuts the tree into trained parameters and model state, and
`merge_state` joins both again. Each call in training computes a new state, which `collect` records.

A tree is one network's, or holds several components: {"denoiser": {..., "batch_stats": ...}, ...}.
A model state is the same tree without the trained parameters: {"batch_stats": ...}, or
{"denoiser": {"batch_stats": ...}}.
"""

import contextlib
import contextvars
from collections.abc import Iterator, Mapping
from typing import Any, NamedTuple

import flax.struct
import flax.traverse_util
import jax
from flax import linen as nn
from jax import lax

from diffjax.typing import Params

STATISTICS = "batch_stats"  # as Linen names the collection
CODEBOOK = "codebook"  # the usage of codes (diffjax/models/quantisers/ema.py)
COLLECTIONS = (STATISTICS, CODEBOOK)  # the names of Linen collections that are model state
Path = tuple[str, ...]  # () for a tree of one network, else (component,)


class Marked(flax.struct.PyTreeNode):
    """A collection that knows its component.

    The path is static, so that it survives jax.tree.map, stop_gradient and jit on the way from the
    train step, through a loss, to the network.
    """

    values: Params
    path: Path = flax.struct.field(pytree_node=False)


class Moved(NamedTuple):
    """The collections that one call in training computed.

    `path` is None for a tree that `marked` did not see, such as the tree of a frozen network.
    """

    path: Path | None
    collections: dict[str, Params]


_collected: contextvars.ContextVar[list[Moved] | None] = contextvars.ContextVar(
    "collected", default=None
)


@contextlib.contextmanager
def collect() -> Iterator[list[Moved]]:
    """Within this context, each call of a Stateful network in training appends to the list."""
    moved: list[Moved] = []
    token = _collected.set(moved)
    try:
        yield moved
    finally:
        _collected.reset(token)


def split_state(tree: Params) -> tuple[Params, Params]:
    """(trained parameters, model state) of a network's tree or of a tree of components.

    The model state is {} where there is none.
    """
    params, model_state = _split(tree)
    for name, part in params.items() if isinstance(params, Mapping) else ():
        params[name], own = _split(part)
        if own:
            model_state[name] = own
    return params, model_state


def _split(tree: Params) -> tuple[Params, dict[str, Any]]:
    if not isinstance(tree, Mapping):
        return tree, {}
    collections = {name: tree[name] for name in COLLECTIONS if name in tree}
    return {name: part for name, part in tree.items() if name not in collections}, collections


def merge_state(params: Params, model_state: Params) -> Params:
    """The tree that `split_state` cut: what networks are applied to.

    `params` may itself hold collections; those of `model_state` replace them.
    """
    if not model_state:
        return params
    merged = dict(params)
    for name, part in model_state.items():
        merged[name] = part if name in COLLECTIONS else {**params.get(name, {}), **part}
    return merged


def marked(model_state: Params) -> Params:
    """The model state with each collection's path, so that calls in training can be told apart."""
    return {
        name: Marked(part, ())
        if name in COLLECTIONS
        else {inner: Marked(values, (name,)) for inner, values in part.items()}
        for name, part in model_state.items()
    }


def mean_state(moved: list[Moved]) -> Params:
    """What the calls of marked networks computed, each collection the mean over its calls.

    It lacks the collections of networks that were not called in training.
    """
    calls: dict[Path, list[Params]] = {}
    for path, collections in moved:
        if path is None:
            continue
        for name, values in collections.items():
            calls.setdefault((*path, name), []).append(values)
    means = {
        path: jax.tree.map(lambda *parts: sum(parts) / len(parts), *values)
        for path, values in calls.items()
    }
    return flax.traverse_util.unflatten_dict(means)


class Stateful(nn.Module):
    """A network that takes its COLLECTIONS from the tree that it is applied to.

    It is called as any other network, `apply({"params": tree}, ..., train=train)`. The collections
    get no gradient. Where `train` is true, the call computes new ones for `collect`.
    """

    @nn.nowrap
    def init_with_output(self, *args: Any, **kwargs: Any) -> Any:
        output, variables = super().init_with_output(*args, **kwargs)
        collections = {name: variables[name] for name in COLLECTIONS if name in variables}
        return output, {"params": {**variables.get("params", {}), **collections}}

    @nn.nowrap
    def apply(self, variables: Any, *args: Any, **kwargs: Any) -> Any:
        params, held = _split(variables["params"])
        if not held:
            return super().apply(variables, *args, **kwargs)
        path, held = _unmarked(held)
        split = {"params": params, **lax.stop_gradient(held)}
        if not kwargs.get("train", False):
            return super().apply(split, *args, **kwargs)
        output, moved = super().apply(split, *args, mutable=list(held), **kwargs)
        collected = _collected.get()
        if collected is not None:
            collected.append(Moved(path, dict(moved)))
        return output


def _unmarked(held: dict[str, Any]) -> tuple[Path | None, dict[str, Params]]:
    path = next((part.path for part in held.values() if isinstance(part, Marked)), None)
    return path, {k: v.values if isinstance(v, Marked) else v for k, v in held.items()}
