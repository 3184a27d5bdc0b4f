"""Checkpoints: the train state and the position of everything that is not an array.

Orbax restores a flipped bit without a word, so each checkpoint carries a checksum of its files, and
the newest one that still agrees with it is used.
"""

import contextlib
import errno
import hashlib
import json
import os
import pathlib
import re
import shutil
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import jax

from diffjax import lazy
from diffjax.errors import UserError
from diffjax.files import PART, write_text
from diffjax.training.parallel import wait_for_all

if TYPE_CHECKING:
    import orbax.checkpoint as ocp
else:
    ocp = lazy.module("orbax.checkpoint")

MANIFEST = "manifest.json"
UNFINISHED = "*.orbax-checkpoint-tmp"
LEEWAY = 2**20  # bytes that a checkpoint may take besides its arrays
# Orbax stamps these once the files are complete; neither holds anything that is restored.
STAMPS = ("_CHECKPOINT_METADATA", "commit_success.txt")


class Checkpoints:
    """The checkpoints of one run, written in the background, the newest `keep` of them kept.

    Each holds a tree of arrays, and a `position` that JSON can express: where the data stand, and
    what has been measured but not yet logged. `skipped` names each checkpoint that a restore passed
    over, and why; unless `read_only` they are moved aside, to damaged/ beside the folder.
    """

    def __init__(
        self, folder: str | os.PathLike[str], *, keep: int = 2, read_only: bool = False
    ) -> None:
        self._folder = pathlib.Path(folder).resolve()
        self._read_only = read_only
        self.skipped: list[str] = []
        if read_only and not self._folder.is_dir():
            raise UserError(f"no checkpoint in {self._folder}: train the run first")
        options = ocp.CheckpointManagerOptions(
            max_to_keep=None if read_only else keep,
            cleanup_tmp_directories=not read_only,
            read_only=read_only,
            async_options=ocp.AsyncOptions(post_finalization_callback=self._seal),
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
        with self._writing():
            self._manager.close()

    def latest_step(self) -> int | None:
        """The step of the newest checkpoint, None where there is none."""
        return self._manager.latest_step()

    def save(self, step: int, state: Any, position: dict[str, Any]) -> None:
        """Copies the state to the host and writes it while training goes on.

        Raises UserError where this or an earlier save cannot be written, or there is no room.
        """
        items = ocp.args.Composite(
            state=ocp.args.PyTreeSave(state), position=ocp.args.JsonSave(position)
        )
        with self._writing():
            self._manager.wait_until_finished()
            self._check_room(state)
            self._manager.save(step, args=items, force=True)

    def wait(self) -> None:
        """Returns once everything saved is on disk. Raises UserError where it cannot be."""
        with self._writing():
            self._manager.wait_until_finished()

    def restore(self, like: Any) -> tuple[Any, dict[str, Any]]:
        """The newest sound state, with `like`'s shapes, dtypes and sharding, and its position.

        `like` may be a part of the state, such as {"ema_params": ...}. Raises UserError where there
        is no sound checkpoint, or the newest is of another shape.
        """
        damaged: list[int] = []
        for step in sorted(self._manager.all_steps(), reverse=True):
            folder = self._folder / str(step)
            problem = _damage(folder)
            try:
                restored = None if problem else self._restore(step, like)
            except (OSError, ValueError, KeyError):
                if folder.exists():
                    raise
            if not folder.exists():  # a run in training has removed it: newer ones are there
                self._manager.reload()
                return self.restore(like)
            if restored is not None:
                if not self._read_only:
                    self._set_aside(damaged)
                return restored
            self.skipped.append(f"checkpoint {step} is damaged and was skipped: {problem}")
            damaged.append(step)
        if damaged:
            raise UserError(f"{'; '.join(self.skipped)}; none is left: train in a new folder")
        raise UserError(f"no checkpoint in {self._folder}: train the run first")

    def _restore(self, step: int, like: Any) -> tuple[Any, dict[str, Any]]:
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
                    f"model as {wanted}: use the options that made the run"
                )

    @contextlib.contextmanager
    def _writing(self) -> Iterator[None]:
        """Turns what the system refuses into one line; Orbax gives some of it as ValueError."""
        try:
            yield
        except (OSError, ValueError) as error:
            found = re.search(r"os_error_code='(\d+)'", str(error))
            number = int(found.group(1)) if found else getattr(error, "errno", None)
            if number is None:
                raise
            sound = [step for step in self._steps() if _damage(self._folder / str(step)) is None]
            kept = f"that of step {sound[0]} is kept" if sound else "none is on disk yet"
            raise UserError(
                f"cannot write a checkpoint in {self._folder}: {os.strerror(number)}; {kept}: "
                "make room or mend it, and the same command goes on from there"
            ) from error

    def _check_room(self, state: Any) -> None:
        """Raises OSError where there is too little: Orbax's threads fail with stack traces."""
        needed = 1.1 * sum(leaf.nbytes for leaf in jax.tree.leaves(state)) + LEEWAY
        if shutil.disk_usage(self._folder).free < needed:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    def _steps(self) -> list[int]:
        """The steps of the finished checkpoints on disk, the newest first."""
        return sorted(int(p.name) for p in self._folder.iterdir() if p.name.isdigit())[::-1]

    def _seal(self) -> None:
        """Adds the checksums: Orbax calls this when all is written, before the folder's rename."""
        if jax.process_index():
            return
        for folder in self._folder.glob(UNFINISHED):
            write_text(folder / MANIFEST, json.dumps(_checksums(folder)))

    def _set_aside(self, steps: list[int]) -> None:
        aside = self._folder.parent / "damaged"
        wait_for_all("checkpoints are read")
        for step in steps if jax.process_index() == 0 else ():
            aside.mkdir(exist_ok=True)
            taken = len(list(aside.glob(f"{step}-*")))
            os.replace(self._folder / str(step), aside / f"{step}-{taken}")
        wait_for_all("damaged checkpoints are set aside")
        self._manager.reload()


def _damage(folder: pathlib.Path) -> str | None:
    """What is wrong with a checkpoint's files; None where they are as they were written."""
    try:
        wanted = json.loads((folder / MANIFEST).read_text())
        found = _checksums(folder)
    except FileNotFoundError:
        return f"it has no {MANIFEST}"
    except (OSError, ValueError) as error:
        return f"its files cannot be read: {error}"
    names = sorted(n for n in wanted.keys() | found.keys() if wanted.get(n) != found.get(n))
    if not names:
        return None
    missing = [n for n in names if n not in found]
    return f"{missing[0]} is missing" if missing else f"{names[0]} has changed since it was written"


def _checksums(folder: pathlib.Path) -> dict[str, str]:
    """SHA-256 of every file below `folder` that a restore reads, by relative path."""
    skip = {MANIFEST, MANIFEST + PART, *STAMPS}
    files = sorted(p for p in folder.rglob("*") if p.is_file() and p.name not in skip)
    sums = {}
    for path in files:
        with path.open("rb") as file:
            sums[path.relative_to(folder).as_posix()] = hashlib.file_digest(
                file, "sha256"
            ).hexdigest()
    return sums


def _leaves(tree: Any) -> dict[str, str]:
    """The shape and dtype of each leaf by its path; stored trees hold dicts for our types."""
    leaves = {}
    for path, leaf in jax.tree_util.tree_flatten_with_path(tree)[0]:
        keys = (getattr(k, "key", getattr(k, "name", getattr(k, "idx", None))) for k in path)
        leaves["/".join(map(str, keys))] = f"{leaf.dtype}{list(leaf.shape)}"
    return leaves
