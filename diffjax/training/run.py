"""A run's folder: what made it, and where its things lie."""

import contextlib
import dataclasses
import fcntl
import json
import os
import pathlib
import re
import textwrap
from collections.abc import Iterator, Mapping
from typing import IO, Any

from diffjax.errors import UserError
from diffjax.files import write_text

LOCK = ".lock"
CONFIG = "config.json"
MOST_SHOWN = 1000  # letters of an option in a message


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def averages(self) -> pathlib.Path:
        return self.path / "averages"

    @property
    def samples(self) -> pathlib.Path:
        return self.path / "samples"

    @property
    def film(self) -> pathlib.Path:
        return self.path / "reverse.gif"

    @property
    def plane(self) -> pathlib.Path:
        return self.path / "latent_plane.png"

    @property
    def environment(self) -> pathlib.Path:
        return self.path / "environment.json"

    @property
    def report(self) -> pathlib.Path:
        return self.path / "report.html"

    def picture(self, step: int) -> pathlib.Path:
        """The picture of a step."""
        return self.samples / f"step_{step:08d}.png"

    def pictures(self) -> dict[int, pathlib.Path]:
        """The pictures that are there, by step, ascending."""
        found = self.samples.glob("step_*.png")
        matches = ((path, re.fullmatch(r"step_(\d+)\.png", path.name)) for path in found)
        return dict(sorted((int(match[1]), path) for path, match in matches if match))

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, path: str | os.PathLike[str], config: Mapping[str, Any], flags: str
    ) -> Iterator["RunFolder"]:
        """Makes the folder, or goes on with one that the same config made; holds it meanwhile.

        config is what JSON can hold; `flags` is written to flags.txt. Raises UserError for a folder
        of another run or of other things, which is left as it was, for one that another process
        holds, and for one that cannot be written.
        """
        if "://" in str(path):
            raise UserError(f"{path} is no folder: a run is written through the file system")
        run = cls(pathlib.Path(path).expanduser())
        if (run.path / CONFIG).exists():
            run._check_same(config)
        elif run.path.exists() and (not run.path.is_dir() or set(os.listdir(run.path)) - {LOCK}):
            raise UserError(f"{run.path} exists and is no run: choose another", option="workdir")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            lock = (run.path / LOCK).open("a")
        except OSError as error:
            raise UserError(f"cannot write {run.path}: {error.strerror}") from error
        with lock:
            run._hold(lock)
            if (run.path / CONFIG).exists():  # another start may have made the folder meanwhile
                run._check_same(config)
            try:
                run.samples.mkdir(exist_ok=True)
                write_text(run.path / "flags.txt", flags)
                write_text(run.path / CONFIG, as_text(config))
            except OSError as error:
                raise UserError(f"cannot write {run.path}: {error.strerror}") from error
            yield run

    def _hold(self, lock: IO[str]) -> None:
        """Locks the folder while the file is open: the system lets go of a dead process."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path} is in use by another process: wait, or choose another folder",
                option="workdir",
            ) from None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> tuple["RunFolder", dict[str, Any]]:
        """An existing run's folder and config. Raises UserError where there is none."""
        run = cls(pathlib.Path(path).expanduser())
        return run, run._config()

    def _config(self) -> dict[str, Any]:
        path = self.path / CONFIG
        if not path.is_file():
            raise UserError(f"{self.path} is no run folder: it has no {CONFIG}")
        try:
            values = json.loads(path.read_text())
        except ValueError as error:
            raise UserError(f"{path} cannot be read as a run's config: {error}") from error
        if not isinstance(values, dict):
            raise UserError(f"{path} cannot be read as a run's config: it is no JSON object")
        return values

    def _check_same(self, config: Mapping[str, Any]) -> None:
        found = self._config()
        if found.keys() != config.keys():
            raise UserError(
                f"{self.path / CONFIG} has another version's form: go on with that version, or in "
                "another folder",
                option="workdir",
            )
        made, asked = flat(found), flat(json.loads(as_text(config)))
        # Long lists of numbers last: they follow from other options.
        names = made.keys() | asked.keys()
        for name in sorted(names, key=lambda n: (len(str(asked.get(n))) > MOST_SHOWN, n)):
            if made.get(name) != asked.get(name):
                # What is left out of a config is at its default.
                was, now = (
                    textwrap.shorten(str(values.get(name, "its default")), MOST_SHOWN)
                    for values in (made, asked)
                )
                raise UserError(
                    f"{self.path} was made with {name}={was}, not {now}: use the flags in its "
                    "flags.txt, or another folder",
                    option="workdir",
                )


def as_text(config: Mapping[str, Any]) -> str:
    return json.dumps(config, indent=2, sort_keys=True) + "\n"


def flat(config: Mapping[str, Any]) -> dict[str, Any]:
    """What makes a run the run it is, by its last name.

    Where another run or a file lay is no part of it: it may be moved.
    """
    found: dict[str, Any] = {}
    for name, value in config.items():
        if isinstance(value, dict):
            found |= {f"{name}_{k}" if "digest" in value else k: v for k, v in flat(value).items()}
        elif not (name == "path" and "digest" in config):
            found[name] = value
    return found
