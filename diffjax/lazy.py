"""Packages whose parts are imported when they are first asked for."""

import importlib
from collections.abc import Callable, Collection, Mapping
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
