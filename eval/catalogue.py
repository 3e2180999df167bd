"""The list of analyses: the files of `eval/analyses`. A module is imported when its analysis is asked for."""

import ast
import importlib
import pkgutil
from collections.abc import Iterable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import InputError, nearest
from eval import analyses

if TYPE_CHECKING:
    from eval.analysis import Analysis


def names() -> list[str]:
    """The name of every analysis, sorted; nothing is imported."""
    return sorted(module.name for module in pkgutil.iter_modules(analyses.__path__))


def docstring(name: str) -> str:
    """The docstring of an analysis, read from its source."""
    return source_docstring(f"{analyses.__name__}.{name}")


def summary(name: str) -> str:
    """The first line of `docstring`."""
    return docstring(name).splitlines()[0]


def source_docstring(module: str) -> str:
    """The docstring of a module, read from its source; only the packages that it lies in are imported."""
    spec = find_spec(module)
    assert spec is not None
    assert spec.origin is not None
    return ast.get_docstring(ast.parse(Path(spec.origin).read_bytes())) or module


def get(name: str) -> "Analysis[Any, Any]":
    """The analysis of this name; its module is imported.

    Raises:
        InputError: there is none; the nearest names are given.
    """
    if name not in names():
        raise unknown(name, names())
    return importlib.import_module(f"{analyses.__name__}.{name}").ANALYSIS


def every() -> "dict[str, Analysis[Any, Any]]":
    """All analyses by name, in the order in which a reader wants their numbers; all modules are imported."""
    found = {name: get(name) for name in names()}
    return dict(sorted(found.items(), key=lambda entry: (entry[1].order, entry[0])))


def unknown(name: str, known: Iterable[str]) -> InputError:
    """The refusal of a name that no analysis has."""
    return InputError(f"unknown analysis {name!r}{nearest(name, known)}")
