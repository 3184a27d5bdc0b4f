"""Averages of the weights whose length is chosen after training (Karras et al. 2024, sec. 3).

"Analyzing and improving the training dynamics of diffusion models". While a run trains it keeps two
averages, and writes both to disk now and then. An average of another length, at any of those steps,
is a sum of what was written, weighted so that its profile over the steps fits best.

The average of exponent g at step t weighs the weights of step u <= t by u^g. Its length is told as
the standard deviation of that profile over t, the relative one: 0.1 is a tenth of the training.
"""

import itertools
import pathlib
import re
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import flax.traverse_util
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jaxtyping import Array, Float64, Int

from diffjax.arrays import read_npz
from diffjax.errors import UserError
from diffjax.files import write_whole
from diffjax.typing import Params

KEPT = (0.05, 0.1)  # relative standard deviations of the averages that a run keeps
MOST = 2**36  # bytes of a file of averages
LONGEST = 0.28  # of an exponent just above 0, which weighs all steps alike


class Averages(NamedTuple):
    """The part of an optimizer's state that holds the averages."""

    steps: Int[Array, ""]
    kept: tuple[Params, ...]


class Profile(NamedTuple):
    """An average that ends at a step."""

    step: int
    exponent: float


def exponent_of(relative_std: float) -> float:
    """The exponent g of a profile of this relative standard deviation (ibid., appendix C).

    It is the greatest root of (g + 1) / ((g + 2)^2 (g + 3)) = relative_std^2. Raises UserError
    unless relative_std is above 0 and at most 0.28.
    """
    if not 0 < relative_std <= LONGEST:
        raise UserError(
            f"an average of relative length {relative_std}: choose a number above 0, at most "
            f"{LONGEST}"
        )
    ratio = relative_std**-2.0
    roots = np.roots([1, 7, 16 - ratio, 12 - ratio])
    return float(roots.real[np.abs(roots.imag) < 1e-6 * np.abs(roots)].max())


def with_averages(tx: optax.GradientTransformation) -> optax.GradientTransformation:
    """The optimizer, which also keeps averages of the weights it makes (ibid., sec. 3.1)."""
    exponents = [exponent_of(length) for length in KEPT]

    def init(params: Params) -> tuple[Any, Averages]:
        copies = tuple(jax.tree.map(jnp.array, params) for _ in exponents)
        return tx.init(params), Averages(jnp.zeros((), jnp.int32), copies)

    def update(
        grads: Params, state: tuple[Any, Averages], params: Params | None = None
    ) -> tuple[Params, tuple[Any, Averages]]:
        updates, inner = tx.update(grads, state[0], params)
        count = state[1].steps + 1
        reached = optax.apply_updates(params, updates)
        # (1 - 1/t)^(g + 1) of the average stays at step t; at the first step none.
        kept = tuple(
            optax.incremental_update(reached, old, 1 - (1 - 1 / count) ** (exponent + 1))
            for exponent, old in zip(exponents, state[1].kept, strict=True)
        )
        return updates, (inner, Averages(count, kept))

    return optax.GradientTransformation(init, update)


def averages_of(opt_state: Any) -> tuple[Params, ...]:
    """The averages in an optimizer's state; none where it keeps none."""
    found = jax.tree.leaves(opt_state, is_leaf=lambda node: isinstance(node, Averages))
    kept = (node.kept for node in found if isinstance(node, Averages))
    return next(kept, ())


def save_averages(folder: pathlib.Path, step: int, kept: Sequence[Params]) -> None:
    """Writes the averages of a step into the folder, whole or not at all."""
    arrays: dict[str, Any] = {
        f"{i}/{name}": np.asarray(leaf)
        for i, params in enumerate(kept)
        for name, leaf in flax.traverse_util.flatten_dict(params, sep="/").items()
    }

    def write(part: pathlib.Path) -> None:
        with part.open("wb") as file:
            np.savez(file, **arrays)

    folder.mkdir(exist_ok=True)
    write_whole(folder / f"step_{step:08d}.npz", write)


def average(folder: pathlib.Path, step: int, relative_std: float) -> Params:
    """The average of this length at this step, from what was written up to it.

    Raises UserError where nothing was written, where `step` was not, or a file cannot be read.
    """
    files = dict(sorted(_files(folder)))
    if step not in files:
        raise UserError(
            f"{folder} has no averages of step {step}: train with averages, which each checkpoint "
            "writes"
        )
    profiles = [
        Profile(at, exponent_of(length))
        for at, length in itertools.product((at for at in files if at <= step), KEPT)
    ]
    weights = best_weights(profiles, Profile(step, exponent_of(relative_std)))
    total: dict[str, np.ndarray] = {}
    pairs = iter(weights)
    for at in (at for at in files if at <= step):
        arrays = read_npz(files[at], MOST)
        for i in range(len(KEPT)):
            weight = next(pairs)
            for name in (name for name in arrays if name.startswith(f"{i}/")):
                bare = name.removeprefix(f"{i}/")
                part = weight * arrays[name].astype(np.float64)
                total[bare] = total[bare] + part if bare in total else part
    found = {name: array.astype(np.float32) for name, array in total.items()}
    params: Params = flax.traverse_util.unflatten_dict(found, sep="/")
    return params


def best_weights(kept: Sequence[Profile], wanted: Profile) -> Float64[np.ndarray, "N"]:
    """Weights of the kept profiles whose sum is nearest to the wanted one (ibid., appendix C)."""
    products = np.array([[product(a, b) for b in kept] for a in kept])
    targets = np.array([product(a, wanted) for a in kept])
    found: Float64[np.ndarray, "N"] = np.linalg.lstsq(products, targets, rcond=1e-14)[0]
    return found


def product(a: Profile, b: Profile) -> float:
    """The integral over the steps of two profiles' product (ibid., appendix C).

    A profile is (g + 1) u^g / t^(g + 1) for u from 0 to t.
    """
    end = min(a.step, b.step)
    common = (end / a.step) ** a.exponent * (end / b.step) ** b.exponent
    scale = (a.exponent + 1) * (b.exponent + 1) / (a.exponent + b.exponent + 1)
    return scale * common / max(a.step, b.step)


def _files(folder: pathlib.Path) -> Iterator[tuple[int, pathlib.Path]]:
    for path in folder.glob("step_*.npz"):
        if match := re.fullmatch(r"step_(\d+)\.npz", path.name):
            yield int(match[1]), path
