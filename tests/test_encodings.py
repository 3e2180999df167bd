"""Texts are read and written as UTF-8, whatever the locale says: a run is read elsewhere than where it was written."""

import ast
from pathlib import Path

ROOT = Path(__file__).parents[1]
PACKAGES = sorted(file.parent for file in ROOT.glob("*/__init__.py") if file.parent.name != "tests")
FILES = [path for package in PACKAGES for path in package.rglob("*.py")]


def unsaid(source: str) -> list[int]:
    """The lines that read or write a text and do not say how it is encoded."""
    calls = [node for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return [
        call.lineno
        for call in calls
        if _is_text(call) and "encoding" not in {word.arg for word in call.keywords}
    ]


def _is_text(call: ast.Call) -> bool:
    name = getattr(call.func, "attr", getattr(call.func, "id", ""))
    modes = [node.value for node in call.args[:2] if isinstance(node, ast.Constant)]
    if name in ("open", "fdopen", "NamedTemporaryFile"):
        opens = isinstance(call.func, ast.Name) or any(mode in ("r", "w", "a", "x") for mode in modes)
        return opens and not any("b" in str(mode) for mode in modes)
    return name in ("read_text", "write_text")


def test_files_say_how_texts_are_encoded() -> None:
    found = {str(path.relative_to(ROOT)): unsaid(path.read_text(encoding="utf-8")) for path in FILES}
    assert {path: lines for path, lines in found.items() if lines} == {}


def test_a_text_without_an_encoding_is_seen() -> None:
    silent = ("p.read_text()", "p.write_text(x)", "open(p)", "p.open('a')", "open(p, 'w')")
    said = (
        "p.read_text(encoding='utf-8')",
        "open(p, 'rb')",
        "p.open('ab')",
        "os.open(p, flags)",
        "shelf.open()",
    )
    assert unsaid("\n".join(silent + said)) == [1, 2, 3, 4, 5]
