"""Objects from text: `ddim(eta=0.5)` builds `DDIM(eta=0.5)`; `render` writes the text back.

A spec names a module of a package, and the module's `__all__` names its one class. So a new
sampler, schedule, data set or backbone is one file, and there is no registry to edit.
"""

import ast
import dataclasses
import difflib
import importlib
import inspect
import math
import pkgutil
import typing
from collections.abc import Callable, Iterable, Mapping
from types import ModuleType
from typing import Any

import typeguard
from flax import linen as nn

from diffjax.errors import UserError


def build(text: str, package: ModuleType, defaults: Mapping[str, Any] | None = None) -> Any:
    """The object that `text` describes; `defaults` fill those options it has and does not give.

    Values are Python literals, so no code in `text` is ever run. Raises UserError for text that is
    not of the form name(option=value, ...), an unknown name, and an unknown, missing or mistyped
    option, naming the legal ones.
    """
    name, options = _parse(text)
    cls = lookup(name, package)
    fields = _options(cls)
    for option in options:
        if option not in fields:
            legal = ", ".join(fields) or "none"
            hint = _closest(option, fields)
            raise UserError(f"{name} has no option {option!r}{hint}; its options: {legal}")
    for option, value in (defaults or {}).items():
        if option in fields and options.get(option) is None:
            options[option] = value
    for option, field in fields.items():
        if option not in options and _required(field):
            raise UserError(f"{name} needs {option}: write {name}({option}=...)")
    return cls(**_checked(name, cls, options))


def names(package: ModuleType) -> tuple[str, ...]:
    """What a spec may name in `package`: its modules that export exactly one class."""
    found = (info.name for info in pkgutil.iter_modules(package.__path__))
    return tuple(name for name in sorted(found) if _exported(name, package) is not None)


def render(obj: Any) -> str:
    """The spec that builds `obj` again: its module's name, and the options off their defaults."""
    name = type(obj).__module__.rpartition(".")[2]
    parts = []
    for option, field in _options(type(obj)).items():
        value = getattr(obj, option)
        if _required(field) or value != _default(field):
            parts.append(f"{option}={value!r}")
    return f"{name}({', '.join(parts)})"


def _parse(text: str) -> tuple[str, dict[str, Any]]:
    shape = f"cannot read {text!r}: write name or name(option=value, ...), strings in quotes"
    try:
        node = ast.parse(text.strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        raise UserError(shape) from error
    if isinstance(node, ast.Name):
        return node.id, {}
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        raise UserError(shape)
    if node.args or any(keyword.arg is None for keyword in node.keywords):
        raise UserError(f"cannot read {text!r}: give every option by name, as in name(option=1)")
    options = {}
    for keyword in node.keywords:
        try:
            options[str(keyword.arg)] = _frozen(ast.literal_eval(keyword.value))
        except (ValueError, TypeError, RecursionError) as error:
            value = ast.unparse(keyword.value)
            raise UserError(
                f"cannot read {keyword.arg}={value} in {text!r}: "
                "a value is a number, a quoted string, True, False, None or a tuple of these"
            ) from error
    return node.func.id, options


def _frozen(value: Any) -> Any:
    """Lists become tuples, so that what is built can be hashed."""
    return tuple(map(_frozen, value)) if isinstance(value, list | tuple) else value


def lookup(name: str, package: ModuleType) -> type:
    """The one class of a module of `package`. Raises UserError, naming the legal ones."""
    cls = _exported(name, package)
    if cls is None:
        legal = names(package)
        kind = package.__name__.rpartition(".")[2]
        hint = _closest(name, legal)
        raise UserError(f"no {name!r} in {kind}{hint}; choose one of: {', '.join(legal)}")
    return cls


def members(package: ModuleType) -> dict[str, type]:
    """The classes that a spec may name in `package`, by their own names. Imports all modules."""
    classes = (_exported(name, package) for name in names(package))
    return {cls.__name__: cls for cls in classes if cls is not None}


def lazily(name: str) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of the package `name`: the classes of its modules, by name.

    So a new module's class is there without a registry, and nothing is imported before it is used.
    """

    def get(attribute: str) -> Any:
        if attribute[:1].isupper():  # lower-case names are modules, which Python finds by itself
            found = members(importlib.import_module(name)).get(attribute)
            if found is not None:
                return found
        raise AttributeError(f"module {name!r} has no attribute {attribute!r}")

    def list_all() -> list[str]:
        package = importlib.import_module(name)
        return sorted({*vars(package), *members(package)})

    return get, list_all


def _exported(name: str, package: ModuleType) -> type | None:
    if name not in {info.name for info in pkgutil.iter_modules(package.__path__)}:
        return None
    module = importlib.import_module(f"{package.__name__}.{name}")
    public: list[str] = list(getattr(module, "__all__", ()))
    cls = getattr(module, str(public[0])) if len(public) == 1 else None
    return cls if inspect.isclass(cls) else None


def _options(cls: type) -> dict[str, dataclasses.Field[Any]]:
    """The fields a spec may set; `parent` and `name` are Linen's own, not its modules' options."""
    hidden = {"parent", "name"} if issubclass(cls, nn.Module) else set()
    return {f.name: f for f in dataclasses.fields(cls) if f.init and f.name not in hidden}


def _required(field: dataclasses.Field[Any]) -> bool:
    return field.default is field.default_factory is dataclasses.MISSING


def _default(field: dataclasses.Field[Any]) -> Any:
    if field.default_factory is not dataclasses.MISSING:
        return field.default_factory()
    return field.default


def _checked(name: str, cls: type, options: Mapping[str, Any]) -> dict[str, Any]:
    """The options once each is seen to be of its field's type; a whole number may be a float."""
    hints = typing.get_type_hints(cls)
    every = typeguard.CollectionCheckStrategy.ALL_ITEMS
    for option, value in options.items():
        try:
            if isinstance(value, bool) and hints[option] in (int, float):
                raise typeguard.TypeCheckError("Python takes True for 1, people do not")
            if not _finite(value):
                raise typeguard.TypeCheckError("no option is infinite")
            typeguard.check_type(value, hints[option], collection_check_strategy=every)
        except typeguard.TypeCheckError as error:
            wanted = "finite " * (not _finite(value)) + inspect.formatannotation(hints[option])
            raise UserError(f"{name}({option}={value!r}): {option} is a {wanted}") from error
    return {o: float(v) if hints[o] is float else v for o, v in options.items()}


def _finite(value: Any) -> bool:
    if isinstance(value, tuple):
        return all(map(_finite, value))
    return not isinstance(value, float) or math.isfinite(value)


def _closest(word: str, legal: Iterable[str]) -> str:
    close = difflib.get_close_matches(word, list(legal), n=1)
    return f" (did you mean {close[0]!r}?)" if close else ""
