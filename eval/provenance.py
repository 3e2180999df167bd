"""The sources and libraries behind a number: with others, it may be another.

The sources are the module of the analysis, what opens and runs a subject, and what these import from this project, at
any depth and wherever in the code the import stands; all kernels; and the mechanisms and post-ops that the model is
made of, their base forms included. Those that it does not use, and how numbers are shown, decide nothing. Only code
counts: docstrings, comments and blank lines may be edited.
"""

import ast
import functools
import platform
import re
from collections.abc import Callable, Iterable, Iterator, Set
from contextlib import contextmanager, suppress
from contextvars import ContextVar
from importlib import metadata
from pathlib import Path
from typing import Any, TypeVar

from common.hashing import text_hash

ROOT = Path(__file__).parents[1]
"""The folder of the project's packages."""

OPENING = "eval.subject"
"""The module that every number depends on beside its analysis."""

KERNELS = "attention.kernels"
"""The package whose every module counts: its modules are found, not imported by name, and any of them may compute."""

PARTS = ("attention.mechanisms", "models.mlps", "models.norms", "models.postops")
"""Packages of which a model uses what its config names; the modules in them count where it does."""

SHOWING = ("eval.analysis", "eval.options", "eval.terminal", "eval.display", "eval.drawing")
"""Modules that declare and show numbers, and decide none."""

BESIDE = {".cpp", ".h", ".yaml"}
"""Sources in other languages; they count with the Python modules of their folder."""

LIBRARIES = {"hqq", "lm_eval", "numpy", "scipy", "sentencepiece", "torch", "transformers"}
"""Libraries that compute numbers. Those of kernels are left out: like devices, they differ in rounding only."""

Finding = TypeVar("Finding")

_found: ContextVar[dict[tuple[str, str], Any] | None] = ContextVar("found", default=None)


@contextmanager
def read_once() -> Iterator[None]:
    """While open, what was found of a module's sources holds: for commands that look at many runs."""
    token = _found.set({})
    try:
        yield
    finally:
        _found.reset(token)


def _held(find: Callable[[str], Finding]) -> Callable[[str], Finding]:
    """A function of a module's name, not called twice within `read_once`."""

    @functools.wraps(find)
    def held(module: str) -> Finding:
        known, key = _found.get(), (find.__name__, module)
        if known is None:
            return find(module)
        if key not in known:
            known[key] = find(module)
        return known[key]  # type: ignore[no-any-return]

    return held


def protocol(module: str, made_of: Iterable[str] = ()) -> dict[str, object]:
    """The entries of a result's protocol about sources and libraries.

    Args:
        module: name of the module of the analysis.
        made_of: names of the modules whose classes the model is made of.
    """
    return {
        "versions": versions(module),
        "code": code(module),
        "parts": {part: _part(part) for part in sorted(made_of) if _inside(part, PARTS)},
    }


@_held
def code(module: str) -> str:
    """Short hash of the sources behind the numbers of an analysis, those of a model's parts apart."""
    return _hashed(_roots(module))


@_held
def _part(module: str) -> str:
    """Short hash of the sources of what a model is made of."""
    return _hashed({module}, parts=True)


@_held
def versions(module: str) -> dict[str, str]:
    """Versions of Python and of the libraries that the sources import, where these are installed.

    Without the label of a build (+cpu), which follows from the device.
    """
    read = (_imports(path.suffix, path.read_bytes()) for path in files(_roots(module)))
    imported = {name.partition(".")[0] for names in read for name in names}
    found = {"python": platform.python_version()}
    for library in sorted(imported & LIBRARIES):
        with suppress(metadata.PackageNotFoundError):
            found[library] = metadata.version(library).partition("+")[0]
    return found


def files(modules: Set[str], *, parts: bool = False) -> set[Path]:
    """The sources that importing these modules may run, and what lies beside them in other languages.

    Args:
        modules: names of modules.
        parts: whether modules in `PARTS` that these import are followed.
    """
    found: set[Path] = set()
    names, waiting = set(modules), list(modules)
    while waiting:
        name = waiting.pop()
        imported = _packages(name)
        for path in _sources(name):
            found.add(path)
            imported |= _imports(path.suffix, path.read_bytes()) | _functions(path)
        new = {name for name in imported - names if _counts(name, parts)}
        names |= new
        waiting += new
    return found


def _roots(module: str) -> set[str]:
    """The modules behind the numbers of an analysis that no import leads to, itself among them."""
    kernels = ROOT.joinpath(*KERNELS.split(".")).rglob("*.py")
    return {module, OPENING, *(".".join(path.relative_to(ROOT).with_suffix("").parts) for path in kernels)}


def _counts(name: str, parts: bool) -> bool:
    shows = name in SHOWING or _inside(name, SHOWING)
    return not shows and (parts or not _inside(name, PARTS))


def _hashed(modules: Set[str], *, parts: bool = False) -> str:
    contents = sorted(_code(path.suffix, path.read_bytes()) for path in files(modules, parts=parts))
    return text_hash("".join(contents))[:16]


def _packages(name: str) -> set[str]:
    """The packages that a module lies in, whose import precedes its own."""
    return {name[: dot.start()] for dot in re.finditer(r"\.", name)}


def _sources(name: str) -> Iterator[Path]:
    """The file of a module of this project, or that of a package and what stands beside it."""
    place = ROOT.joinpath(*name.split("."))
    if place.with_suffix(".py").is_file():
        yield place.with_suffix(".py")
    if (place / "__init__.py").is_file():
        yield place / "__init__.py"
        yield from _beside(place)


def _beside(folder: Path) -> Iterator[Path]:
    """Sources in other languages in a folder and in those within it that are no packages."""
    for path in folder.iterdir():
        if path.suffix in BESIDE:
            yield path
        elif path.is_dir() and path.name != "__pycache__" and not (path / "__init__.py").exists():
            yield from _beside(path)


def _inside(name: str, packages: tuple[str, ...]) -> bool:
    return name.startswith(tuple(f"{package}." for package in packages))


def _functions(path: Path) -> set[str]:
    """The modules beside a YAML file whose functions it names."""
    if path.suffix != ".yaml":
        return set()
    package = ".".join(path.parent.relative_to(ROOT).parts)
    return {
        f"{package}.{module}" for module in re.findall(r"!function (\w+)\.", path.read_text(encoding="utf-8"))
    }


@functools.cache
def _imports(suffix: str, content: bytes) -> frozenset[str]:
    """The imports of a source: modules, and names that may be modules."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(content)) if suffix == ".py" else ():
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found |= {node.module, *(f"{node.module}.{alias.name}" for alias in node.names)}
    return frozenset(found)


@functools.cache
def _code(suffix: str, content: bytes) -> str:
    """A source without what is no code, hashed."""
    if suffix == ".py":
        text = ast.dump(_Undocumented().visit(ast.parse(content)), annotate_fields=False)
    else:
        text = content.decode(errors="replace")
        if suffix != ".yaml":
            text = re.sub(r"(\"(?:\\.|[^\"\\])*\")|//[^\n]*|/\*.*?\*/", r"\1", text, flags=re.DOTALL)
        lines = (line.rstrip() for line in text.splitlines())
        text = "\n".join(line for line in lines if line and not (suffix == ".yaml" and line.startswith("#")))
    return text_hash(text)


class _Undocumented(ast.NodeTransformer):
    """Takes out every string that stands as a statement: docstrings, and notes below constants."""

    def visit_Expr(self, node: ast.Expr) -> ast.AST | None:
        is_text = isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)
        return None if is_text else node
