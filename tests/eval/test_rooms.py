"""The rooms of `eval`: analyses know nothing of the report, and nobody knows an analysis by its name."""

import ast
from pathlib import Path

import eval as package
from eval import catalogue

ROOT = Path(package.__file__).parent

COMMANDS = {
    "quantization/__main__.py": "quantize",
    "quantization/table.py": "quantize",
    "lm_tasks/separation.py": "harness",
    "notebook.py": "heatmaps",
}
"""Commands of their own, and cells of notebooks, that go on with the results of one analysis."""


def imported(path: Path) -> set[str]:
    """What a file imports, wherever in it."""
    found: set[str] = set()
    for node in ast.walk(ast.parse(path.read_bytes())):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            found |= {f"{node.module}.{alias.name}" for alias in node.names}
    return found


def importers(package: str) -> set[str]:
    """The files of `eval` outside a package that import something of it."""
    folder = ROOT.joinpath(*package.split(".")[1:])
    return {
        str(path.relative_to(ROOT))
        for path in ROOT.rglob("*.py")
        if folder not in path.parents
        and any(name.startswith(f"{package}.") or name == package for name in imported(path))
    }


def test_nothing_imports_the_report_but_the_command() -> None:
    assert importers("eval.report") == {"measuring.py", "notebook.py"}


def test_nothing_imports_an_analysis_by_its_name() -> None:
    """The catalogue imports the folder, and a file of it when it is asked for."""
    assert importers("eval.analyses") == {"catalogue.py", *COMMANDS}
    for command, name in COMMANDS.items():
        of_analyses = {name for name in imported(ROOT / command) if name.startswith("eval.analyses.")}
        assert all(f".{name}" in entry for entry in of_analyses)


def test_analyses_do_not_know_each_other() -> None:
    for name in catalogue.names():
        others = {entry for entry in imported(ROOT / "analyses" / f"{name}.py") if "eval.analyses" in entry}
        assert others == set(), name


def test_no_analysis_is_named_in_the_report() -> None:
    for path in (*(ROOT / "report").glob("*.py"), ROOT / "measuring.py", ROOT / "display.py"):
        texts = {
            node.value
            for node in ast.walk(ast.parse(path.read_bytes()))
            if isinstance(node, ast.Constant) and isinstance(node.value, str)
        }
        assert not texts & set(catalogue.names()), path.name
