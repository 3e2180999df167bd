"""Pages from a mechanism's file: nothing about a mechanism is written anywhere else.

The docstring of such a file is a title, the source and the formula, then four paragraphs that begin with the words of
`NOTES`. Options are described under "Args:" of the class, what is learned in the docstring of `parameters`.
"""

import inspect
import re
import textwrap
from collections.abc import Iterable
from dataclasses import fields
from itertools import groupby
from pathlib import Path

from attention import markdown
from attention.capabilities import Capability, capabilities, kernels
from attention.core.errors import AttentionError
from attention.core.mechanism import Mechanism
from attention.core.registry import get, names

NOTES = ("Paper", "Published code", "Here", "Beware")
"""Notes on the paper, its published code, this file, and what to look out for."""

COMMAND = "python -m attention docs --write ."
PAGE, README = Path("docs/mechanisms.md"), Path("README.md")
MARKED = re.compile(
    rf"(?P<begin><!-- mechanisms: (?P<names>[\w, ]+); by `{re.escape(COMMAND)}` -->\n)"
    r".*?(?P<end><!-- end of mechanisms -->\n)",
    re.DOTALL,
)
"""The README's table between its marks, the first of which names its rows."""

INTRODUCTION = f"""\
# The mechanisms: what the paper says, what its code does, what this project does

Written from the files in `attention/mechanisms/` by `{COMMAND}`, never by hand;
`python -m attention show NAME` prints one of them. All mix values as `out_i = Σ_j w(s_ij; row statistics) v_j`.
Notation: s are the scores after scale, bias and positions, n the number of keys that a query sees (under a window, in a
packed document or beside padding: the visible ones, never the column index), d the head dimension, h the head. A row is
dead where its output and its gradients are exactly 0.
"""


def section(name: str) -> str:
    """All about one mechanism, in Markdown.

    Raises:
        AttentionError: no such mechanism, or its file does not say all that it must.
    """
    mechanism = get(name)
    opening, notes = docstring(mechanism)
    items = [f"**{title}**: {text}" for title, text in notes.items()]
    items.append(f"**Form**: {mechanism.form.__name__}.")
    items += [f"**Option** {option}." for option in options(mechanism)]
    if text := learned(mechanism):
        items.append(f"**Learned per head**: {text}")
    bullets = "\n".join(textwrap.indent(f"- {item}", "  ")[2:] for item in items)
    return f"## {name}\n\n{opening}\n\n{bullets}\n"


def page() -> str:
    """Every mechanism's section: docs/mechanisms.md."""
    return "\n".join(
        [INTRODUCTION, table(names()).replace(f"({PAGE}#", "(#"), *(section(name) for name in names())]
    )


def docstring(mechanism: Mechanism) -> tuple[str, dict[str, str]]:
    """Split the docstring of a mechanism's file into its head and the notes by their titles.

    Raises:
        AttentionError: it lacks one of them.
    """
    module = inspect.getmodule(type(mechanism))
    parts = re.split(rf"^({'|'.join(NOTES)}): ", inspect.getdoc(module) or "", flags=re.MULTILINE)
    notes = {title: text.strip() for title, text in zip(parts[1::2], parts[2::2], strict=True)}
    if tuple(notes) != NOTES:
        raise AttentionError(
            f"the docstring of {mechanism.name}'s file must have paragraphs that begin with "
            f"{', '.join(f'{title!r}' for title in NOTES)}, in this order; it has {', '.join(notes) or 'none'}"
        )
    return parts[0].strip(), notes


def options(mechanism: Mechanism) -> list[str]:
    """Each option with its default and what the nearest class that describes it says.

    Raises:
        AttentionError: one is described nowhere.
    """
    described: dict[str, str] = {}
    for cls in reversed(type(mechanism).__mro__):
        arguments = (cls.__doc__ or "").partition("Args:")[2]
        for item in re.split(r"\n(?=\s*\w+: )", textwrap.dedent(arguments.split("\n\n")[0])):
            option, colon, text = item.strip().partition(": ")
            if colon:
                described[option] = " ".join(text.split()).rstrip(".")
    found = []
    for field in fields(mechanism):  # type: ignore[arg-type]
        if field.name not in described:
            raise AttentionError(
                f"{type(mechanism).__name__} does not describe its option {field.name!r} in Args"
            )
        found.append(f"`{field.name}`, {field.default!r} by default: {described[field.name]}")
    return found


def learned(mechanism: Mechanism) -> str:
    """The docstring of what a mechanism learns per head; empty where it learns nothing."""
    if not mechanism.initial_values(2, 16):
        return ""
    of_width = type(mechanism).initial_values is not Mechanism.initial_values
    return inspect.getdoc(type(mechanism).initial_values if of_width else type(mechanism).parameters) or ""


def kernels_here(name: str) -> str:
    """The kernels that serve a mechanism on this machine, as one more item of its section."""
    return f"- **Kernels on this machine**: {', '.join(kernels(get(name)))}.\n"


def listing() -> str:
    """Every mechanism in two lines: formula, then paper and kernels; under the form of its pointwise functions."""
    entries = capabilities()
    width = max(len(entry.name) for entry in entries)
    lines = []
    for form, group in _by_form(entries):
        lines.append(f"\n{form}: {_meaning(form)}\n")
        for entry in group:
            lines.append(f"  {entry.name:{width}}  {entry.formula}")
            lines.append(f"  {'':{width}}  {entry.paper}; kernels: {', '.join(entry.kernels)}")
    return "\n".join(lines).lstrip("\n") + "\n"


def table(chosen: Iterable[str]) -> str:
    """These mechanisms as rows of a Markdown table.

    Raises:
        AttentionError: an unknown name.
    """
    rows = []
    for mechanism in map(get, chosen):
        formula = mechanism.formula.replace("|", "\\|")
        rows.append([f"[`{mechanism.name}`]({PAGE}#{mechanism.name})", formula, mechanism.paper])
    return markdown.table(["name", "weights", "paper"], rows) + "\n"


def write(root: Path) -> None:
    """Write the page of a checkout, and its README's table of the mechanisms that the README names.

    Raises:
        AttentionError: `root` is not one, or a file does not say all that it must.
    """
    for file in (PAGE, README):
        if not (root / file).is_file():
            raise AttentionError(f"{root} is not a checkout of this project: there is no {root / file}")
    text = (root / README).read_text(encoding="utf-8")
    marked = MARKED.search(text)
    if marked is None:
        raise AttentionError(
            f"{root / README} has no lines '<!-- mechanisms: NAME, ...; by `{COMMAND}` -->' and "
            "'<!-- end of mechanisms -->'"
        )
    written = table(re.split(r",\s*", marked["names"]))
    (root / PAGE).write_text(page(), encoding="utf-8")
    (root / README).write_text(
        f"{text[: marked.start()]}{marked['begin']}\n{written}\n{marked['end']}{text[marked.end() :]}",
        encoding="utf-8",
    )


def _by_form(entries: list[Capability]) -> list[tuple[str, list[Capability]]]:
    ordered = sorted(entries, key=lambda entry: (entry.form, entry.name))
    return [(form, list(group)) for form, group in groupby(ordered, key=lambda entry: entry.form)]


def _meaning(form: str) -> str:
    """The first line of a form's docstring."""
    classes = {get(name).form.__name__: get(name).form for name in names()}
    return (inspect.getdoc(classes[form]) or "").partition("\n")[0]
