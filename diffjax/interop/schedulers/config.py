"""diffusers' schedulers by name: what a scheduler_config.json stands for."""

import dataclasses
import inspect
import json
import os
import textwrap
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import typeguard

from diffjax.errors import UserError
from diffjax.interop.json_files import read_json
from diffjax.interop.schedulers.noise_levels import (
    EDMEulerScheduler,
    EulerAncestralDiscreteScheduler,
    EulerDiscreteScheduler,
    FlowMatchEulerDiscreteScheduler,
    HeunDiscreteScheduler,
    LMSDiscreteScheduler,
)
from diffjax.interop.schedulers.options import Options, Scheduler
from diffjax.interop.schedulers.solvers import (
    DEISMultistepScheduler,
    DPMSolverMultistepScheduler,
    EDMDPMSolverMultistepScheduler,
    UniPCMultistepScheduler,
)
from diffjax.interop.schedulers.training_steps import DDIMScheduler, DDPMScheduler, PNDMScheduler

SCHEDULER_CONFIG = "scheduler_config.json"
# Options of the first releases, at values that change nothing.
OLD: dict[str, tuple[object, ...]] = {"predict_epsilon": (True,), "tensor_format": ("np", "pt")}
CLASSES: dict[str, type[Options]] = {
    kind.__name__: kind
    for kind in (
        DDPMScheduler,
        DDIMScheduler,
        PNDMScheduler,
        EulerDiscreteScheduler,
        EulerAncestralDiscreteScheduler,
        HeunDiscreteScheduler,
        LMSDiscreteScheduler,
        DPMSolverMultistepScheduler,
        UniPCMultistepScheduler,
        DEISMultistepScheduler,
        EDMEulerScheduler,
        EDMDPMSolverMultistepScheduler,
        FlowMatchEulerDiscreteScheduler,
    )
}


def scheduler_from_config(
    config: str | os.PathLike[str] | Mapping[str, Any], **options: Any
) -> Scheduler:
    """The process, sampler and spacing that a scheduler of diffusers stands for.

    config: a scheduler_config.json, a folder that holds one (or a pipeline's), or what is in one.
    options: in the place of those that are there. Options that are in neither have the defaults of
    diffusers' class. Raises UserError, naming it, for a file that cannot be read, a class that is
    not supported, and an option or a value that is not.
    """
    if isinstance(config, Mapping):
        return _built("the scheduler's config", {**config, **options})
    path = _path(Path(config).expanduser())
    return _built(str(path), {**read_json(path), **options})


def _path(path: Path) -> Path:
    if not path.is_dir():
        return path
    part = path / "scheduler" / SCHEDULER_CONFIG
    return part if part.is_file() else path / SCHEDULER_CONFIG


def _built(source: str, config: Mapping[str, Any]) -> Scheduler:
    name = config.get("_class_name")
    if not isinstance(name, str):
        raise UserError(f"{source} names no scheduler: it has no _class_name")
    if name not in CLASSES:
        raise UserError(f"{source}: {name} is not supported: choose one of {', '.join(CLASSES)}")
    try:
        return CLASSES[name](**_options(source, CLASSES[name], config)).scheduler()
    except UserError as error:
        raise UserError(f"{source}: {error}", error.option) from error


def _options(source: str, kind: type[Options], config: Mapping[str, Any]) -> dict[str, Any]:
    """The options of diffusers' class, each seen to be of its type."""
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    options = {}
    for name, value in config.items():
        if name in fields:
            if value is not None or fields[name].default:  # null stands for off
                options[name] = _checked(name, value, hints[name])
        elif not name.startswith("_"):
            _check_foreign(source, kind, config, name)
    return options


def _checked(name: str, value: Any, hint: Any) -> Any:
    try:
        if isinstance(value, bool) and hint in (int, float):
            raise typeguard.TypeCheckError("Python takes True for 1, people do not")
        every = typeguard.CollectionCheckStrategy.ALL_ITEMS
        typeguard.check_type(value, hint, collection_check_strategy=every)
    except typeguard.TypeCheckError as error:
        raise UserError(f"{name}={_shown(value)} is not supported: {_legal(hint)}") from error
    return value


def _legal(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        values = [_shown(value) for value in typing.get_args(hint)]
        return f"only {values[0]} is" if len(values) == 1 else f"choose {', '.join(values)}"
    return f"give {inspect.formatannotation(hint)}"


def _shown(value: Any) -> str:
    """A value as the file has it, and no more of it than a line holds."""
    return textwrap.shorten(json.dumps(value, default=str), 80, placeholder="...")


def _check_foreign(source: str, kind: type[Options], config: Mapping[str, Any], name: str) -> None:
    """Refuses an option that the class does not have, unless it is off, or another class's."""
    # Pipelines keep the options of the schedulers that they had before. diffusers passes over them.
    if any(name in {f.name for f in dataclasses.fields(other)} for other in CLASSES.values()):
        return
    if not any(_same(config[name], value) for value in OLD.get(name, (None, False))):
        version = config.get("_diffusers_version", "an unknown version")
        raise UserError(
            f"{kind.__name__} has no option {name!r}, and the file is of diffusers {version}: "
            "remove the option"
        )
    if name not in OLD:
        warnings.warn(f"{source}: passing over option {name!r}, which is off", stacklevel=6)


def _same(given: Any, value: object) -> bool:
    """Whether it is that value, and not 0 for False."""
    return type(given) is type(value) and given == value
