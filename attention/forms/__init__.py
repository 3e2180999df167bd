"""The forms of mechanisms: one file each, found by listing this folder."""

import pkgutil
from functools import cache
from importlib import import_module

from attention.core.form import Rowwise


@cache
def rowwise_forms() -> dict[str, type[Rowwise]]:
    """The forms of pointwise functions by the names of their files, sorted."""
    found = {}
    for module in pkgutil.iter_modules(__path__):
        for cls in vars(import_module(f"{__name__}.{module.name}")).values():
            own = isinstance(cls, type) and cls.__module__ == f"{__name__}.{module.name}"
            if own and issubclass(cls, Rowwise) and cls.form is cls:
                found[module.name] = cls
    return found
