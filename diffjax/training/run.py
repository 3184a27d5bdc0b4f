"""A run's folder: what made it, and where its things lie."""

import contextlib
import dataclasses
import fcntl
import hashlib
import json
import os
import pathlib
from collections.abc import Iterator
from typing import IO, Any, Literal

from diffjax.errors import UserError
from diffjax.files import write_text
from diffjax.typing import Target

LOCK = ".lock"
# The fields that config.json has whatever their values; others are left out at their defaults.
ALWAYS = (
    "experiment", "model", "image_shape", "num_classes", "training", "schedule", "target",
)  # fmt: skip
Objective = Literal["progressive", "consistency_distillation", "consistency_training"]
LossName = Literal["denoising", "hybrid", "vlb", "continuous_vlb"]


@dataclasses.dataclass(frozen=True)
class RunConfig:
    """What a run is: two of one config, and of one length, end in the same weights.

    model and schedule are specs with every option that follows from the data filled in;
    num_classes is None where the network knows no label; `training` is every other flag that
    changes a number. schedule and target are None where nothing is diffused; objective says what a
    student learns by, and is None for all others. What follows is of the network's process, and of
    the loss of experiments.ddpm.
    """

    experiment: str
    model: str
    image_shape: tuple[int, int, int]
    num_classes: int | None
    training: dict[str, Any]
    schedule: str | None = None
    target: Target | None = None
    objective: Objective | None = None
    sigma_data: float = 0.5
    learned_variance: bool = False
    loss: LossName = "denoising"
    weighting: str = "simple()"
    times: str = "grid()"
    offset_noise: float = 0.0
    huber: float = 0.0
    cond_drop: float = 0.0

    @property
    def consistent(self) -> bool:
        """Whether a consistency model is learnt."""
        return self.objective in ("consistency_distillation", "consistency_training")

    def name(self) -> str:
        """A name for the folder that is this config's own."""
        digest = hashlib.sha256(self.to_json().encode()).hexdigest()[:8]
        dataset = str(self.training.get("dataset", "")).partition("(")[0]
        return f"{self.experiment}_{dataset}_{digest}"

    def to_json(self) -> str:
        values = dataclasses.asdict(self)
        for field in dataclasses.fields(self):
            # Or runs that were made before there was such a field would all have another name.
            if field.name not in ALWAYS and values[field.name] == field.default:
                del values[field.name]
        return json.dumps(values, indent=2, sort_keys=True)

    @classmethod
    def from_json(cls, text: str) -> "RunConfig":
        values = json.loads(text)
        return cls(**{**values, "image_shape": tuple(values["image_shape"])})


@dataclasses.dataclass(frozen=True)
class RunFolder:
    """The files of one run."""

    path: pathlib.Path

    @property
    def checkpoints(self) -> pathlib.Path:
        return self.path / "checkpoints"

    @property
    def samples(self) -> pathlib.Path:
        return self.path / "samples"

    @property
    def film(self) -> pathlib.Path:
        return self.path / "reverse.gif"

    @property
    def environment(self) -> pathlib.Path:
        return self.path / "environment.json"

    @property
    def report(self) -> pathlib.Path:
        return self.path / "report.html"

    @classmethod
    @contextlib.contextmanager
    def create(
        cls, path: str | os.PathLike[str], config: RunConfig, flags: str
    ) -> Iterator["RunFolder"]:
        """Makes the folder, or goes on with one that the same config made; holds it meanwhile.

        `flags` is written to flags.txt. Raises UserError for a folder of another run or of other
        things, which is left as it was, for one that another process holds, and for one that cannot
        be written.
        """
        if "://" in str(path):
            raise UserError(f"{path} is no folder: a run is written through the file system")
        run = cls(pathlib.Path(path).expanduser())
        if (run.path / "config.json").exists():
            run._check_same(config)
        elif run.path.exists() and (not run.path.is_dir() or set(os.listdir(run.path)) - {LOCK}):
            raise UserError(f"{run.path} exists and is no run: choose another --workdir")
        try:
            run.path.mkdir(parents=True, exist_ok=True)
            lock = (run.path / LOCK).open("a")
        except OSError as error:
            raise UserError(f"cannot write {run.path}: {error.strerror}") from error
        with lock:
            run._hold(lock)
            try:
                run.samples.mkdir(exist_ok=True)
                write_text(run.path / "flags.txt", flags)
                write_text(run.path / "config.json", config.to_json() + "\n")
            except OSError as error:
                raise UserError(f"cannot write {run.path}: {error.strerror}") from error
            yield run

    def _hold(self, lock: IO[str]) -> None:
        """Locks the folder while the file is open: the system lets go of a dead process."""
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise UserError(
                f"{self.path} is in use by another process: wait, or choose another --workdir"
            ) from None

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> tuple["RunFolder", RunConfig]:
        """An existing run. Raises UserError where there is none."""
        run = cls(pathlib.Path(path).expanduser())
        return run, run._config()

    def _config(self) -> RunConfig:
        path = self.path / "config.json"
        if not path.is_file():
            raise UserError(f"{self.path} is no run folder: it has no config.json")
        try:
            return RunConfig.from_json(path.read_text())
        except (ValueError, TypeError, KeyError) as error:
            raise UserError(f"{path} cannot be read as a run's config: {error}") from error

    def _check_same(self, config: RunConfig) -> None:
        made, asked = _flat(self._config()), _flat(config)
        for name in sorted(made.keys() | asked.keys()):
            if made.get(name) != asked.get(name):
                raise UserError(
                    f"{self.path} was made with {name}={made.get(name)}, not {asked.get(name)}: "
                    "use the flags in its flags.txt, or another --workdir"
                )


def _flat(config: RunConfig) -> dict[str, Any]:
    values = json.loads(json.dumps(dataclasses.asdict(config)))
    return {**values, **values.pop("training")}
