"""diffusers' schedulers by name: what a scheduler_config.json stands for."""

import dataclasses
import json
import os
import typing
import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal

import typeguard

from diffjax.errors import UserError
from diffjax.interop.safetensors import read_json
from diffjax.interop.scheduler_options import CLASSES, Options, Scheduler

SCHEDULER_CONFIG = "scheduler_config.json"


def scheduler_from_config(config: str | os.PathLike[str] | Mapping[str, Any]) -> Scheduler:
    """The process, sampler and spacing that a scheduler of diffusers stands for.

    config: a scheduler_config.json, a folder that holds one (or a pipeline's), or what is in one.
    Options that are not there have the defaults of diffusers' class. Raises UserError, naming it,
    for a file that cannot be read, a class that is not supported, and an option or a value that is
    not.
    """
    if isinstance(config, Mapping):
        return _built("the scheduler's config", config)
    path = _path(Path(config).expanduser())
    return _built(str(path), read_json(path))


def _path(path: Path) -> Path:
    if not path.is_dir():
        return path
    part = path / "scheduler" / SCHEDULER_CONFIG
    return part if part.is_file() else path / SCHEDULER_CONFIG


def _built(source: str, config: Mapping[str, Any]) -> Scheduler:
    name = config.get("_class_name")
    if name not in CLASSES:
        raise UserError(f"{source} is of a {name}: choose one of {', '.join(CLASSES)}")
    given = {k: v for k, v in config.items() if not k.startswith("_")}
    try:
        return CLASSES[name](**_options(source, CLASSES[name], given)).scheduler()
    except UserError as error:
        raise UserError(f"{source}: {error}", error.option) from error


def _options(source: str, kind: type[Options], given: Mapping[str, Any]) -> dict[str, Any]:
    """The options of diffusers' class, each seen to be of its type."""
    hints, fields = typing.get_type_hints(kind), {f.name: f for f in dataclasses.fields(kind)}
    options = {}
    for name, value in given.items():
        if name not in fields:
            _check_foreign(source, kind, name, value)
        elif value is not None or fields[name].default:  # null stands for off
            options[name] = _checked(name, value, hints[name])
    return options


def _checked(name: str, value: Any, hint: Any) -> Any:
    value = tuple(value) if value == [] else value
    value = float("-inf") if value == "-Infinity" else value
    try:
        if isinstance(value, bool) and hint in (int, float):
            raise typeguard.TypeCheckError("Python takes True for 1, people do not")
        typeguard.check_type(value, hint)
    except typeguard.TypeCheckError as error:
        raise UserError(f"{name}={json.dumps(value)} is not supported: {_legal(hint)}") from error
    return value


def _legal(hint: Any) -> str:
    if typing.get_origin(hint) is Literal:
        values = [json.dumps(value) for value in typing.get_args(hint)]
        return f"only {values[0]} is" if len(values) == 1 else f"choose {', '.join(values)}"
    return f"give a {getattr(hint, '__name__', hint)}"


def _check_foreign(source: str, kind: type[Options], name: str, value: Any) -> None:
    """Refuses an option that diffusers' class has not either, unless another class has."""
    if any(name in {f.name for f in dataclasses.fields(other)} for other in CLASSES.values()):
        return  # pipelines keep the options of a scheduler that they had before: diffusers too
    if value is not None and value is not False:
        raise UserError(f"{kind.__name__} has no option {name!r}: remove it")
    warnings.warn(f"{source}: passing over option {name!r}, which is off", stacklevel=5)
