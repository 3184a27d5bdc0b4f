"""Kinds of flag: paths, numbers and seeds, refused when parsed where they cannot be meant."""

import math
import os
from collections.abc import Sequence
from typing import Any

from absl import flags

flags.disclaim_key_flags()  # what is defined here belongs to the program that asked for it

DATA = "data"
MOST = 2**31 - 1  # what steps, sizes and counts are held in


class PathParser(flags.ArgumentParser):
    """A path, with the user's home folder filled in for a leading `~`."""

    syntactic_help = "a path"

    def parse(self, argument: str) -> str:
        if not argument.strip():
            raise ValueError("a path is not empty")
        if "\0" in argument:
            raise ValueError("a path has no NUL character")
        return os.path.expanduser(argument)

    def flag_type(self) -> str:
        return "path"


class NumberParser(flags.FloatParser):
    """A finite number between bounds."""

    def convert(self, argument: Any) -> float:
        value = super().convert(argument)
        if not math.isfinite(value):
            raise ValueError("give a finite number")
        return value


def define_path(
    name: str, default: str | None, help_text: str, *, required: bool = False
) -> flags.FlagHolder[Any]:
    """A flag that holds a path."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    return flags.DEFINE(
        PathParser(), name, default, help_text, serializer=serializer, required=required
    )


def define_paths(name: str, help_text: str) -> flags.FlagHolder[list[str] | None]:
    """A flag that may be given more than once and holds paths; None by default."""
    serializer: flags.ArgumentSerializer[str] = flags.ArgumentSerializer()
    return flags.DEFINE_multi(PathParser(), serializer, name, None, help_text)


def define_number(
    name: str,
    default: float | None,
    help_text: str,
    lower_bound: float | None = None,
    upper_bound: float | None = None,
) -> flags.FlagHolder[float]:
    """A flag that holds a finite number."""
    parser = NumberParser(lower_bound, upper_bound)
    return flags.DEFINE(parser, name, default, help_text, serializer=flags.ArgumentSerializer())


def define_numbers(
    name: str, default: Sequence[float], help_text: str, lower_bound: float | None = None
) -> flags.FlagHolder[list[float]]:
    """A flag that may be given more than once and holds finite numbers."""
    serializer: flags.ArgumentSerializer[float] = flags.ArgumentSerializer()
    return flags.DEFINE_multi(NumberParser(lower_bound), serializer, name, default, help_text)


def define_integers(
    name: str, default: Sequence[int], help_text: str, lower_bound: int | None = None
) -> flags.FlagHolder[list[int]]:
    """A flag that may be given more than once and holds whole numbers of 32 bits."""
    return flags.DEFINE_multi_integer(name, default, help_text, lower_bound, MOST)


def define_integer(
    name: str,
    default: int | None,
    help_text: str,
    lower_bound: int | None = None,
    upper_bound: int = MOST,
) -> flags.FlagHolder[Any]:
    """A flag that holds a whole number, by default one of 32 bits."""
    return flags.DEFINE_integer(name, default, help_text, lower_bound, upper_bound)


class CountParser(flags.IntegerParser):
    """A whole number, or DATA: as many as the data set has."""

    syntactic_help = f"a whole number, or {DATA}"

    def convert(self, argument: Any) -> Any:
        try:
            return DATA if argument == DATA else super().convert(argument)
        except ValueError as error:
            raise ValueError(f"give {self.syntactic_help}") from error

    def is_outside_bounds(self, val: Any) -> bool:
        return val != DATA and super().is_outside_bounds(val)


def define_count(name: str, default: int, help_text: str) -> flags.FlagHolder[Any]:
    """A flag that holds a whole number from 0, or DATA."""
    parser = CountParser(0, MOST)
    return flags.DEFINE(parser, name, default, help_text, serializer=flags.ArgumentSerializer())


def define_seed() -> flags.FlagHolder[Any]:
    """--seed: JAX's keys hold 32 bits of it, and two seeds must not be one."""
    return define_integer("seed", 0, "all randomness", 0, 2**32 - 1)
