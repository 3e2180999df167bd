"""The page of a mechanism, from the mechanism's file, the table of what runs what, and pages of results.

A file that is added to `attention/mechanisms/` has its page; nothing here knows one by its name but the baseline.
"""

import inspect
import re
import textwrap
from dataclasses import dataclass
from pathlib import Path

from attention import Mechanism, get, markdown, names, notes
from website import drawings, notation
from website.tables import plain, tables

CAPABILITIES = Path("docs/capabilities.md")
RESULTS = ("benchmarks/results", "docs/studies")
"""Folders whose pages have tables with a row for each mechanism."""

PRECISIONS = ("float32", "bfloat16", "float16", "float64")
BLOCK = re.compile(r"^(?: {4}.*(?:\n|$))+", re.MULTILINE)
"""Indented lines of a docstring, up to an empty one."""

NOTE = re.compile(r"\[(\d+)\]")
INTRODUCTION = """\
# Mechanisms

One page for each, made from its file in `attention/mechanisms/`: the formula, what it does to a row of scores, what
the paper and its published code say, what this project does, hazards, kernels and measured results.

All mix values as `out_i = Σ_j w(s_ij; row statistics) v_j`. Here s are the scores after scale, bias and positions, n
is the number of keys that a query sees (under a window, in a packed document or beside padding: the visible ones), d
the head dimension, h the head. A row is dead where its output and its gradients are exactly 0.

[What runs what](../capabilities.md) has all kernels at once. [Add a mechanism](../add-a-mechanism.md) says how a file
of your own gets a page here.
"""


@dataclass(frozen=True)
class Sources:
    """What the pages are made from, beside the mechanisms' files.

    Attributes:
        capabilities: the text of docs/capabilities.md.
        results: text of each page of results, by its path in the repository.
        configs: paths of the configs that train a mechanism, by its name.
    """

    capabilities: str
    results: dict[str, str]
    configs: dict[str, list[str]]

    @classmethod
    def read(cls, root: Path) -> "Sources":
        """Those of a checkout."""
        pages = [path for folder in RESULTS for path in sorted((root / folder).glob("*.md"))]
        return cls(
            (root / CAPABILITIES).read_text(encoding="utf-8"),
            {path.relative_to(root).as_posix(): path.read_text(encoding="utf-8") for path in pages},
            _configs(root),
        )


def index() -> str:
    """The list of all mechanisms with their formulas typeset."""
    rows = [
        [
            f"[`{mechanism.name}`]({mechanism.name}.md)<br><small>{mechanism.paper}</small>",
            notation.inline(mechanism.formula),
        ]
        for mechanism in map(get, names())
    ]
    return INTRODUCTION + "\n" + markdown.table(["mechanism", "weights"], rows) + "\n"


def page(name: str, sources: Sources) -> str:
    """All about one mechanism, as Markdown; links are relative to docs/mechanisms/.

    Raises:
        AttentionError: no such mechanism, or its file does not say all that it must.
        NotationError: its formula cannot be typeset.
    """
    mechanism = get(name)
    opening, said = notes.docstring(mechanism)
    title, _, rest = opening.partition("\n")
    parts = [
        f"# {name}",
        title.strip(),
        _typeset(rest.strip("\n")),
        "## What it does to scores",
        f'<figure class="drawing">{drawings.draw_curve(name)}<figcaption>The weight of one key as its score '
        f"moves, while {drawings.OTHERS} others stay.</figcaption></figure>",
        f'<figure class="drawing">{drawings.draw_row(name)}<figcaption>One row of scores, and its weights. '
        f"{drawings.row(mechanism).sentence()}</figcaption></figure>",
        "Weights are those of the plain formula"
        + (", learned parameters at their start." if notes.learned(mechanism) else "."),
        "## Hazards",
        '!!! warning "Beware"\n\n' + textwrap.indent(_sentence(said["Beware"]), "    "),
        "## Use it",
        _use(mechanism, sources),
        *(f"## {heading}\n\n{_sentence(said[note])}" for heading, note in _SECTIONS),
        "## Kernels",
        _kernels(name, sources.capabilities),
        "## Measured",
        _measured(name, sources.results),
        "## Source",
        f"[`{_file(mechanism)}`](../../{_file(mechanism)})",
    ]
    return "\n\n".join(parts) + "\n"


_SECTIONS = (
    ("What the paper says", "Paper"),
    ("What its published code does", "Published code"),
    ("What this project does", "Here"),
)


def _sentence(text: str) -> str:
    """A note as the beginning of a paragraph."""
    # A single letter is a symbol, not a word.
    begun = f"{text[0].upper()}{text[1:]}" if text[1].isalpha() else text
    return begun.replace(" <= ", " ≤ ").replace(" >= ", " ≥ ")


def _typeset(text: str) -> str:
    """The indented formulas of a docstring as MathML; tables of words stay as they are."""

    def replace(match: re.Match[str]) -> str:
        block = textwrap.dedent(match[0]).strip("\n")
        formula = notation.typeset(block) if notation.is_formula(block) else f"```text\n{block}\n```"
        return f"\n{formula}\n\n"

    return BLOCK.sub(replace, text)


def _use(mechanism: Mechanism, sources: Sources) -> str:
    name = mechanism.name
    override = f"configs/micro-softmax.yaml name=micro-{name} model.attention={name}"
    configs = sources.configs.get(name, [override])
    train = "\n".join(f"python train.py {config}" for config in configs)
    parts = [f'```python\nout = attend(query, key, value, "{name}")\n```', f"```sh\n{train}\n```"]
    if options := notes.options(mechanism):
        rows = []
        for option in options:
            field, _, meaning = option.partition(": ")
            key, _, default = field.partition(", ")
            rows.append([key, f"`{default.removesuffix(' by default')}`", meaning.replace("|", "\\|")])
        parts.append(markdown.table(["option", "default", "meaning"], rows))
    if learned := notes.learned(mechanism):
        parts.append(f"Learned per head: {learned}")
    if mechanism.window is not None:
        parts.append(f"It has a sliding window of {mechanism.window} keys unless a call says otherwise.")
    return "\n\n".join(parts)


def _kernels(name: str, capabilities: str) -> str:
    """Kernels that were tried, with precisions and exceptions, then those that could not be."""
    found = list(tables(capabilities))
    said = dict(re.findall(r"^(\d+)\. (.*)$", capabilities.partition("## Notes")[2], re.MULTILINE))
    numbers: dict[str, int] = {}

    def short(cells: list[str]) -> str:
        """An answer in few letters: the notes of all that is not a plain yes."""
        used = dict.fromkeys(NOTE.findall(" ".join(cells)))
        places = [str(numbers.setdefault(number, len(numbers) + 1)) for number in used]
        marks = f"<sup>{', '.join(places)}</sup>" if used else ""
        answer = "no" if cells[0].startswith("no") and len(cells) == 1 else "yes"
        return f"{answer}, but{marks}" if used and answer == "yes" else answer + marks

    rows = []
    for table in found:
        for cells in table.about(name) if "float32" in table.header else []:
            by_column = dict(zip(table.header, cells, strict=True))
            by_column.pop("mechanism")
            precisions = [short([by_column.pop(column)]) for column in PRECISIONS]
            rows.append([f"`{table.heading}`", *precisions, short(list(by_column.values()))])
    legend = [f"{place}. {said[number].partition(': ')[2]}" for number, place in numbers.items()]
    refused = [
        f"- `{plain(cells[0])}`: {said[number].removeprefix('no: ')}"
        for table in found
        if table.header[:2] == ["kernel", "refusal"]
        for cells in table.rows
        for number in NOTE.findall(cells[1])
        if name in plain(cells[2]).split("; ")
    ]
    parts = [
        "Each kernel was held to the plain formula in float64, gradients included, on a machine without a GPU.",
        markdown.table(["kernel", *PRECISIONS, "all other checks"], rows)
        if rows
        else "No kernel has been tried yet: `python -m attention.conformance --mechanism "
        f"{name} --write docs/capabilities.md` does.",
    ]
    if legend:
        parts.append('??? note "What the numbers mean"\n\n' + textwrap.indent("\n".join(legend), "    "))
    if refused:
        parts.append("These did not serve it there:\n\n" + "\n".join(refused))
    return "\n\n".join([*parts, "[What runs what](../capabilities.md) explains the checks."])


def _measured(name: str, results: dict[str, str]) -> str:
    """Rows about a mechanism from pages of results, those of the baseline above them."""
    parts = []
    for path, text in results.items():
        found = []
        for table in tables(text):
            rows = table.about(name)
            if not rows or (len(table.rows) == len(rows) and len(table.rows) > 8):
                continue
            beside = [row for row in table.about(drawings.BASELINE) if row not in rows][:1]
            found.append(f"**{table.heading}**\n\n{markdown.table(table.header, beside + rows)}")
        if found:
            heading = re.search(r"^# (.*)$", text, re.MULTILINE)
            title = heading[1] if heading else path
            body = "\n".join([*found, f"[The whole page, with its machine and settings](../../{path})"])
            parts.append(f'??? info "{title}"\n\n' + textwrap.indent(body, "    ") + "\n")
    return "\n".join(parts) or "Nothing in this repository has been measured with it yet."


def _file(mechanism: Mechanism) -> str:
    module = inspect.getmodule(type(mechanism))
    return f"{module.__name__.replace('.', '/')}.py" if module else ""


def _configs(root: Path) -> dict[str, list[str]]:
    """Configs by the one mechanism that they name, those of one size after the other."""
    found: dict[str, list[str]] = {}
    paths = [
        *root.glob("configs/micro-*.yaml"),
        *root.glob("configs/demo/*.yaml"),
        *root.glob("configs/[0-9]*.yaml"),
    ]
    for path in paths:
        if match := re.search(r"^\s+attention: (\w+)\s*$", path.read_text(encoding="utf-8"), re.MULTILINE):
            found.setdefault(match[1], []).append(path.relative_to(root).as_posix())
    return found
