"""The sources and libraries behind an analysis: with others, its numbers may be others.

The sources are its module and what that imports from this package, at any depth and wherever in the code the import
stands; the packages beneath as a whole, since mechanisms and kernels are discovered there and not imported; and the
module's `SOURCES`.
"""

import ast
import functools
import hashlib
import platform
from collections.abc import Iterator
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).parents[1]
"""The folder of the project's packages."""

PACKAGE = "eval"
BENEATH = {"attention", "common", "data", "models", "storage", "training"}
"""Packages that this one builds on."""

SUFFIXES = {".py", ".cpp", ".h"}

LIBRARIES = {"hqq", "lm_eval", "numpy", "scipy", "sentencepiece", "torch", "transformers"}
"""What else computes numbers. Libraries of kernels are left out: like devices, they differ in rounding only."""


def protocol(module: ModuleType) -> dict[str, Any]:
    """What a result's protocol says of them."""
    return {"versions": versions(module), "code": code(module)}


def code(module: ModuleType) -> str:
    """Short hash of the sources."""
    digest = hashlib.sha256()
    for _, content in sorted(read(module).items()):
        digest.update(hashlib.sha256(content).digest())
    return digest.hexdigest()[:16]


def versions(module: ModuleType) -> dict[str, str]:
    """Versions of Python and of the libraries that the sources import, where these are installed.

    Without the label of a build (+cpu), which follows from the device.
    """
    imported = {
        name.partition(".")[0]
        for path, content in read(module).items()
        for name in _imports(path.suffix, content)
    }
    found = {"python": platform.python_version()}
    for library in sorted(imported & LIBRARIES):
        with suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library).partition("+")[0]
    return found


def read(module: ModuleType) -> dict[Path, bytes]:
    """The content of each source, by its path."""
    found: dict[Path, bytes] = {}
    followed: set[str] = set()
    waiting = [Path(str(module.__file__)), *getattr(module, "SOURCES", ())]
    while waiting:
        path = waiting.pop()
        if path not in found:
            found[path] = path.read_bytes()
            names = {_whole(name) for name in _imports(path.suffix, found[path])} - followed
            followed |= names
            waiting += [file for name in names for file in _files(name)]
    return found


@functools.cache
def _imports(suffix: str, content: bytes) -> frozenset[str]:
    """What a source imports: modules, and names that may be modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(content)) if suffix == ".py" else ():
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


def _whole(name: str) -> str:
    """The package of what lies beneath this one; other names as they are."""
    package = name.partition(".")[0]
    return package if package in BENEATH else name


def _files(name: str) -> Iterator[Path]:
    """The files that importing this name may run."""
    package, *inner = name.split(".")
    if package in BENEATH:
        yield from (path for path in (ROOT / package).rglob("*") if path.suffix in SUFFIXES)
    elif package == PACKAGE:
        for depth in range(len(inner) + 1):
            place = ROOT.joinpath(package, *inner[:depth])
            yield from filter(Path.is_file, (place.with_suffix(".py"), place / "__init__.py"))
