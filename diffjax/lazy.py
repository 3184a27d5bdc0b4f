"""Modules, and parts of packages, that are imported when they are first asked for."""

import importlib
import importlib.util
import sys
from collections.abc import Callable, Collection, Mapping
from types import ModuleType
from typing import Any


def parts(
    package: str, modules: Mapping[str, str], submodules: Collection[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """The functions `__getattr__` and `__dir__` of a package.

    modules: for each name the module of the package, as `"a"` or `"a.b"`, that it comes from.
    submodules: names that are modules of the package themselves.
    """

    def get(name: str) -> Any:
        if name in modules:
            return getattr(importlib.import_module(f"{package}.{modules[name]}"), name)
        if name in submodules:
            return importlib.import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    def list_all() -> list[str]:
        return sorted({*vars(importlib.import_module(package)), *modules, *submodules})

    return get, list_all


def module(name: str) -> ModuleType:
    """The module, whose code runs when an attribute is first read. Raises ImportError for none.

    For what takes a tenth of a second and more, and many a program ends without.
    """
    if name in sys.modules:
        return sys.modules[name]
    found = importlib.util.find_spec(name)
    if found is None or found.loader is None:
        raise ModuleNotFoundError(f"No module named {name!r}", name=name)
    found.loader = importlib.util.LazyLoader(found.loader)
    made = importlib.util.module_from_spec(found)
    sys.modules[name] = made
    found.loader.exec_module(made)
    return made
