"""Imports run one way through the package, in every file of it, and out of it to nothing else of the project."""

import ast
import sys
from pathlib import Path

import pytest

import attention

PACKAGE = Path(attention.__file__).parent
FLOORS = ("core", "forms", "mechanisms", "kernels")
"""Each imports itself and those before it."""

OUTSIDE = {"torch", "einops", "triton", "filelock", "flash_attn"}
BRIDGE = "transformers"
"""The folder that serves the optional package of this name, and alone imports it."""
FILES = sorted(path for path in PACKAGE.rglob("*.py"))


def imported(path: Path) -> set[str]:
    """The full names of what a file imports, wherever in it."""
    names = set()
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert node.module is not None, "an import by dots"
            names |= {f"{node.module}.{alias.name}" for alias in node.names}
    return names


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(PACKAGE)))
def test_a_file_imports_its_own_floor_and_those_below(path):
    own = path.relative_to(PACKAGE).parts[0]
    for name in imported(path):
        package, *inner = name.split(".")
        if package != "attention":
            assert package in OUTSIDE | sys.stdlib_module_names or own == package == BRIDGE, name
        elif own in FLOORS and name != "attention.mechanisms":  # the registry lists that folder
            assert inner[0] in FLOORS[: FLOORS.index(own) + 1], name


def test_the_folders_of_forms_and_mechanisms_hold_nothing_else():
    assert {path.name for path in PACKAGE.iterdir() if path.is_dir() and path.name != "__pycache__"} == {
        *FLOORS,
        "conformance",
        BRIDGE,
    }
    for path in (PACKAGE / "mechanisms").glob("*.py"):
        assert path.name == "__init__.py" or "@register" in path.read_text(), path
    for path in (PACKAGE / "forms").glob("*.py"):
        assert path.name == "__init__.py" or "\n@form\n" in path.read_text(), path


def test_no_file_is_longer_than_a_reader_likes():
    sources = [path for end in ("py", "cpp", "h") for path in PACKAGE.rglob(f"*.{end}")]
    assert {path.name: n for path in sources if (n := len(path.read_text().splitlines())) > 450} == {}
