"""Imports run one way, in every file of the project."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]

BELOW = {
    "attention": set(),
    "common": set(),
    "data": {"common"},
    "models": {"attention", "common"},
    "storage": {"attention", "common", "data", "models"},
    "training": {"attention", "common", "data", "models", "storage"},
    "eval": {"attention", "common", "data", "models", "storage", "training"},
    "study": {"attention", "common", "data", "models", "storage", "training", "eval"},
    "benchmarks": {"attention", "common", "data", "models", "storage", "training", "eval"},
    "website": {"attention", "eval"},
}
"""Of each package, the packages that its files may import beside their own."""

FLOORS = (
    ("attention.core", {"attention.core"}),
    ("attention.forms", {"attention.core", "attention.forms"}),
    ("attention.mechanisms", {"attention.core", "attention.forms", "attention.mechanisms"}),
    ("attention.kernels", {"attention.core", "attention.forms", "attention.mechanisms", "attention.kernels"}),
)
"""Of each floor of `attention`, the floors that its files may import."""

COMMANDS = {ROOT / "models" / "generate.py", *(ROOT / "models" / "export").glob("*.py")}
"""Commands, which stand above all, wherever they lie."""

LISTING = ("attention.core.registry", "attention.mechanisms")
"""The registry imports the folder whose files it lists, and no name of it."""

FILES = sorted(path for package in BELOW for path in (ROOT / package).rglob("*.py") if path not in COMMANDS)


def imported(path: Path) -> Iterator[str]:
    """The full names of the modules of the project that a file imports, at its top or in a function."""
    here = path.relative_to(ROOT).parts[:-1]
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            names = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            start = here[: len(here) - node.level + 1] if node.level else ()
            module = ".".join([*start, *([node.module] if node.module else [])])
            names = [f"{module}.{alias.name}" for alias in node.names]
        else:
            continue
        yield from (name for name in names if name.partition(".")[0] in BELOW)


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_a_file_imports_what_stands_below_it(path: Path) -> None:
    package = path.relative_to(ROOT).parts[0]
    allowed = BELOW[package] | {package}
    wrong = {name for name in imported(path) if name.partition(".")[0] not in allowed}
    assert not wrong, f"{package} stands below {', '.join(sorted(wrong))}"


@pytest.mark.parametrize("path", sorted((ROOT / "attention").rglob("*.py")), ids=lambda path: path.name)
def test_a_file_of_the_library_imports_its_floor_and_those_below(path: Path) -> None:
    module = ".".join(path.relative_to(ROOT).with_suffix("").parts)
    allowed = next((below for floor, below in FLOORS if f"{module}.".startswith(f"{floor}.")), None)
    if allowed is None:
        return
    wrong = {name for name in imported(path) if not any(f"{name}.".startswith(f"{x}.") for x in allowed)}
    wrong -= {name for name in wrong if (module, name) == LISTING}
    assert not wrong, f"{module} stands below {', '.join(sorted(wrong))}"


def test_every_package_of_the_project_has_its_place() -> None:
    packages = {path.parent.name for path in ROOT.glob("*/__init__.py")} - {"tests"}
    assert packages == set(BELOW)


def test_an_import_in_a_function_and_a_relative_one_are_seen(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(globals(), "ROOT", tmp_path)
    path = tmp_path / "data" / "corpora" / "text.py"
    path.parent.mkdir(parents=True)
    path.write_text(
        "from ..cache import keep\n\ndef f():\n    import eval.report\n    from models import GPT\n"
    )
    assert list(imported(path)) == ["data.cache.keep", "eval.report", "models.GPT"]
