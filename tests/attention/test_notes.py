"""What the files of mechanisms say of them, and the pages made of it."""

import re
import sys
from dataclasses import dataclass, fields
from pathlib import Path
from typing import ClassVar

import pytest

import attention
from attention import __main__ as command
from attention import notes
from attention.core import registry

ROOT = Path(__file__).parents[2]


@dataclass(frozen=True)
class _Undescribed(type(attention.get("swat"))):
    """A mechanism with an option of its own.

    Args:
        window: keys.
    """

    name: ClassVar[str] = "undescribed"
    depth: int = 3


def _command(monkeypatch, *arguments: str) -> None:
    monkeypatch.setattr("sys.argv", ["attention", *arguments])
    command.main()


@pytest.mark.parametrize("name", attention.names())
def test_every_file_says_what_the_paper_its_code_and_it_do(name):
    section = notes.section(name)
    assert section.startswith(f"## {name}\n")
    for title in (*notes.NOTES, "Form"):
        (text,) = [line for line in section.splitlines() if line.startswith(f"- **{title}**: ")]
        assert len(text) > len(f"- **{title}**: ") + 3
    assert "\n    " in section.partition("- **Paper**")[0], "no formula"
    for option in fields(attention.get(name)):
        assert f"- **Option** `{option.name}`, {option.default!r} by default: " in section


def test_the_page_is_what_the_files_say():
    assert (ROOT / notes.PAGE).read_text() == notes.page(), f"stale; run `{notes.COMMAND}`"


def test_a_file_without_a_paragraph_is_named(monkeypatch):
    monkeypatch.setitem(registry._registered, "undescribed", _Undescribed)
    with pytest.raises(
        attention.AttentionError, match="the docstring of undescribed's file must have paragraphs"
    ):
        notes.section("undescribed")
    assert "it has Paper, Here" in _error(monkeypatch, "Title.\n\nPaper: a.\n\nHere: b.\n")


def test_an_option_that_is_not_described_is_named(monkeypatch):
    monkeypatch.setitem(registry._registered, "undescribed", _Undescribed)
    complete = "Title.\n\nPaper: a.\n\nPublished code: b.\n\nHere: c.\n\nBeware: d.\n"
    assert _error(monkeypatch, complete) == "_Undescribed does not describe its option 'depth' in Args"


def _error(monkeypatch, docstring: str) -> str:
    monkeypatch.setattr(sys.modules[__name__], "__doc__", docstring)
    with pytest.raises(attention.AttentionError) as error:
        notes.section("undescribed")
    return str(error.value)


def test_a_description_is_inherited_and_a_nearer_one_wins(monkeypatch):
    described = notes.options(attention.get("scalable_softpick"))
    assert described == ["`epsilon`, 1e-06 by default: added to the denominator, in the pivot's frame"]
    monkeypatch.setattr(
        _Undescribed, "__doc__", "X.\n\n    Args:\n        window: keys.\n        depth: of\n            it."
    )
    assert notes.options(_Undescribed())[::3] == [
        "`window`, 512 by default: keys",
        "`depth`, 3 by default: of it",
    ]


def test_the_list_has_formula_paper_form_and_kernels_of_every_mechanism(monkeypatch, capsys):
    _command(monkeypatch)
    printed = capsys.readouterr().out
    _command(monkeypatch, "list")
    assert capsys.readouterr().out == printed
    for entry in attention.capabilities():
        before, _, after = printed.partition(f"  {entry.name} ")
        formula, rest = after.split("\n")[:2]
        assert formula.strip() == entry.formula
        assert rest.strip() == f"{entry.paper}; kernels: {', '.join(entry.kernels)}"
        headings = [line for line in before.splitlines() if line and not line.startswith(" ")]
        assert headings[-1].startswith(f"{entry.form}: ")


def test_one_is_shown_with_its_kernels(monkeypatch, capsys):
    _command(monkeypatch, "show", "softpick")
    printed = capsys.readouterr().out
    assert printed.startswith(notes.section("softpick"))
    assert "- **Kernels on this machine**: " in printed
    assert ", tiled" in printed


def test_pages_are_written_into_a_checkout_and_the_rest_of_the_readme_stays(monkeypatch, tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / notes.PAGE).write_text("old")
    begin, end = f"<!-- mechanisms: swat, relu; by `{notes.COMMAND}` -->\n", "<!-- end of mechanisms -->\n"
    (tmp_path / notes.README).write_text(f"before\n{begin}old\n{end}after\n")
    _command(monkeypatch, "docs", "--write", str(tmp_path))
    assert (tmp_path / notes.PAGE).read_text() == notes.page()
    rows = notes.table(["swat", "relu"])
    assert [line.split("`")[1] for line in rows.splitlines()[2:]] == ["swat", "relu"]
    expected = f"before\n{begin}\n{rows}\n{end}after\n"
    assert (tmp_path / notes.README).read_text() == expected
    _command(monkeypatch, "docs", "--write", str(tmp_path))
    assert (tmp_path / notes.README).read_text() == expected


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["show", "softpik"], "unknown mechanism 'softpik'; did you mean 'softpick'?"),
        (
            ["docs", "--write", "nowhere"],
            "nowhere is not a checkout of this project: there is no nowhere/docs/",
        ),
    ],
)
def test_a_mistake_is_refused(arguments, message, monkeypatch, capsys):
    with pytest.raises(attention.AttentionError, match=re.escape(message)):
        _command(monkeypatch, *arguments)
    assert not capsys.readouterr().out


def test_a_readme_without_the_marks_is_not_touched(tmp_path):
    (tmp_path / "docs").mkdir()
    (tmp_path / notes.PAGE).write_text("old")
    (tmp_path / notes.README).write_text("no marks\n")
    with pytest.raises(attention.AttentionError, match="has no lines"):
        notes.write(tmp_path)
    assert (tmp_path / notes.PAGE).read_text() == "old"
