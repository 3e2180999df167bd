"""Parts that are found by listing a folder: one file each, its name the name of the part."""

import importlib
import pkgutil
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def modules(package: str) -> dict[str, ModuleType]:
    """The modules of a package by name, in the order of their names; those that begin with `_` are left out."""
    places = importlib.import_module(package).__path__
    names = [found.name for found in pkgutil.iter_modules(places) if not found.name.startswith("_")]
    return {name: importlib.import_module(f"{package}.{name}") for name in sorted(names)}


def classes(package: str, base: type[T]) -> dict[str, type[T]]:
    """The classes under `base` that the modules of a package define, by the name of their module."""
    return {
        name: found
        for name, module in modules(package).items()
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, base) and found is not base
        if found.__module__ == module.__name__
    }
