"""Parts that are found by listing a folder: one file each, its name the name of the part."""

import importlib
import pkgutil
from collections.abc import Collection, Iterable
from types import ModuleType
from typing import TypeVar

T = TypeVar("T")


def modules(package: str, without: Collection[str] = ()) -> dict[str, ModuleType]:
    """The modules of a package by name, in the order of their names."""
    places = importlib.import_module(package).__path__
    names = [found.name for found in pkgutil.iter_modules(places) if found.name not in without]
    return {name: importlib.import_module(f"{package}.{name}") for name in sorted(names)}


def classes(package: str, base: type[T], without: Collection[str] = ()) -> dict[str, type[T]]:
    """The classes under `base` that the modules of a package define, by the name of their module."""
    return {
        name: found
        for name, module in modules(package, without).items()
        for found in vars(module).values()
        if isinstance(found, type) and issubclass(found, base) and found is not base
        if found.__module__ == module.__name__
    }


def options(parts: Iterable[object]) -> tuple[type, ...]:
    """The dataclasses `Options` of parts that have some, as bases of a dataclass with the fields of all of them.

    Raises:
        TypeError: two parts that do not build on one another declare an option of the same name.
    """
    found = dict.fromkeys(part.Options for part in parts if hasattr(part, "Options"))
    owners: dict[str, type] = {}
    for own in {own: None for each in found for own in each.__mro__}:
        for name in vars(own).get("__annotations__", {}):
            if (other := owners.setdefault(name, own)) is not own:
                raise TypeError(
                    f"the option {name} is declared in {other.__module__} and in {own.__module__}"
                )
    return tuple(own for own in found if not any(own in other.__mro__[1:] for other in found))
