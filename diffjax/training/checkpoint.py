"""Checkpoints: the train state and the position of everything that is not an array."""

import os
import pathlib
from typing import Any

import jax
import orbax.checkpoint as ocp

from diffjax.errors import UserError


class Checkpoints:
    """The checkpoints of one run, written in the background, the newest `keep` of them kept.

    Each holds a tree of arrays, and a `position` that JSON can express: where the data stand, and
    what has been measured but not yet logged.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, keep: int = 2, read_only: bool = False
    ) -> None:
        self._folder = pathlib.Path(folder).resolve()
        if read_only and not self._folder.is_dir():
            raise UserError(f"no checkpoint in {self._folder}: train the run first")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
        )
        self._manager = ocp.CheckpointManager(
            self._folder,
            options=options,
            item_handlers={
                "state": ocp.PyTreeCheckpointHandler(),
                "position": ocp.JsonCheckpointHandler(),
            },
        )

    def __enter__(self) -> "Checkpoints":
        return self

    def __exit__(self, *error: object) -> None:
        self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Copies the state to the host and writes it while training goes on.

        Raises what an earlier save failed of.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), position=ocp.args.JsonSave(position)
        )
        self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Returns once everything saved is on disk; raises what a save failed of."""
        self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The newest state, with the shapes, dtypes and sharding of `like`, and its position.

        `like` may be a part of the state, such as {"ema_params": ...}. Raises UserError where there
        is no checkpoint, or the newest is of another shape.
        """
        step = self.latest_step()
        if step is None:
            raise UserError(f"no checkpoint in {self._folder}: train the run first")
        self._check(step, like)
        items = ocp.args.Composite(
            state=ocp.args.PyTreeRestore(
                like,
                restore_args=ocp.checkpoint_utils.construct_restore_args(like),
                partial_restore=True,
            ),
            position=ocp.args.JsonRestore(),
        )
        restored = self._manager.restore(step, args=items)
        return restored["state"], restored["position"]

    def _check(self, step: int, like: Any) -> None:
        """Raises UserError for another shape or dtype: Orbax would cast without a word."""
        found = _leaves(self._manager.item_metadata(step)["state"].tree)
        for name, wanted in _leaves(like).items():
            if found.get(name) != wanted:
                raise UserError(
                    f"checkpoint {step} in {self._folder} has {name} as {found.get(name)}, this "
                    f"model as {wanted}: use the flags that made the run"
                )


def _leaves(tree: Any) -> dict[str, str]:
    """The shape and dtype of each leaf by its path; stored trees hold dicts for our types."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in path)
        leaves["/".join(map(str, keys))] = f"{leaf.dtype}{list(leaf.shape)}"
    return leaves
