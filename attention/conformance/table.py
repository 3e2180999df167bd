"""The capability table: what the checks found, as a page to read and as data to compare with."""

import re
from collections.abc import Iterable
from dataclasses import fields
from pathlib import Path

from attention import markdown
from attention.conformance.checks import CHECKS
from attention.core.errors import AttentionError
from attention.core.mechanism import Mechanism
from attention.core.registry import get
from attention.kernels.dispatch import KERNELS

COMMAND = "python -m attention.conformance --write docs/capabilities.md"

COLUMNS: dict[str, tuple[str, ...]] = {
    "trained": ("trained activations",),
    "shapes": (
        "head dims",
        "value dims",
        "grouped heads",
        "ragged lengths",
        "short lengths",
        "non-contiguous",
    ),
    "masks": ("window", "documents", "not causal", "one key", "empty rows", "causality"),
    "sound": ("extreme scores", "determinism", "poisoned memory"),
    "one graph": ("torch.compile",),
    "modes": ("forward mode", "second derivatives", "torch.func", "vmap", "recomputation", "no gradient"),
}
"""Checks that share a column; each other check has its own."""

Outcomes = dict[tuple[str, str], dict[str, str]]
"""The finding of each check, by the mechanism's title and the kernel's name."""

INTRODUCTION = """\
# What runs what

Written by `{command}` on device `{device}`, never by hand;
`tests/attention/test_conformance.py` compares it with what the checks find.

Every mechanism at its defaults and in its variants, on every kernel. **yes**: the checks of a column pass, gradients
included, measured against the dense formula in float64. **exempt**: they pass but for what the note names, which no
error of the formula tells right from wrong. **no**: the kernel says that it does not serve such calls, for the reason
in the note. **FAILS**: it serves them and breaks the contract.

| column | checks |
| --- | --- |
{legend}
"""

UNSERVED = """\
## Not served

What a kernel refuses altogether on device `{device}`. A kernel without a table above has run nothing here: that it
works is not known from this page.

{table}
"""


def title(mechanism: Mechanism) -> str:
    """The registry's name, with the options that are not at their defaults."""
    plain = get(mechanism.name)
    options = [
        f"{field.name}={getattr(mechanism, field.name)!r}"
        for field in fields(mechanism)  # type: ignore[arg-type]
        if getattr(mechanism, field.name) != getattr(plain, field.name)
    ]
    return f"{mechanism.name}({', '.join(options)})" if options else mechanism.name


def columns() -> dict[str, tuple[str, ...]]:
    """The checks of each column."""
    of_check = {check: column for column, checks in COLUMNS.items() for check in checks}
    names = dict.fromkeys(of_check.get(check, check) for check in CHECKS)
    return {name: COLUMNS.get(name, (name,)) for name in names}


def write(path: str | Path, outcomes: Outcomes, device: str) -> None:
    """Write the page."""
    Path(path).write_text(page(outcomes, device), encoding="utf-8")


def page(outcomes: Outcomes, device: str) -> str:
    """The page as Markdown: a table per kernel, then who is refused altogether, then the notes."""
    notes: dict[str, int] = {}
    legend = "\n".join(f"| {column} | {', '.join(checks)} |" for column, checks in columns().items())
    parts = [INTRODUCTION.format(command=COMMAND, device=device, legend=legend)]
    header = ["mechanism", *columns()]
    unserved: list[list[str]] = []
    for kernel in KERNELS:
        rows = {mechanism: found for (mechanism, name), found in outcomes.items() if name == kernel}
        refused = {mechanism: found for mechanism, found in rows.items() if _refuses_everything(found)}
        cells = [
            [f"`{mechanism}`", *_cells(found, notes)]
            for mechanism, found in rows.items()
            if mechanism not in refused
        ]
        if cells:
            table = markdown.table(header, cells)
            parts.append(f"## {kernel}\n\n{KERNELS[kernel].summary}.\n\n{table}\n")
        unserved += _refusals(kernel, refused, notes)
    if unserved:
        table = markdown.table(["kernel", "refusal", "mechanisms"], unserved)
        parts.append(UNSERVED.format(device=device, table=table))
    if notes:
        parts.append("## Notes\n\n" + "".join(f"{number}. {note}\n" for note, number in notes.items()))
    return "\n".join(parts)


def _refuses_everything(found: dict[str, str]) -> bool:
    return len(set(found.values())) == 1 and all(result.startswith("no") for result in found.values())


def _cells(found: dict[str, str], notes: dict[str, int]) -> list[str]:
    cells = []
    for checks in columns().values():
        results = [found[check] for check in checks]
        if len(set(results)) == 1:
            cells.append(_verdict(results, notes))
            continue
        exceptions = ", ".join(
            f"{check} {_verdict([found[check]], notes)}" for check in checks if found[check] != "yes"
        )
        cells.append(f"yes; {exceptions}")
    return cells


def _verdict(results: Iterable[str], notes: dict[str, int]) -> str:
    """The one thing that all results say, its reason as a number."""
    (result,) = set(results)
    if result == "yes":
        return result
    return f"{result.partition(':')[0]} [{notes.setdefault(result, len(notes) + 1)}]"


def _refusals(kernel: str, rows: dict[str, dict[str, str]], notes: dict[str, int]) -> list[list[str]]:
    by_reason: dict[str, list[str]] = {}
    for mechanism, found in rows.items():
        by_reason.setdefault(_verdict(found.values(), notes), []).append(f"`{mechanism}`")
    return [[kernel, reason, "; ".join(mechanisms)] for reason, mechanisms in by_reason.items()]


def read(path: str | Path) -> tuple[Outcomes, str]:
    """Read a page's findings, and the device that it was made on.

    Raises:
        AttentionError: no such file, or not such a page.
    """
    try:
        text = Path(path).read_text(encoding="utf-8")
    except OSError as error:
        raise AttentionError(f"cannot read {path}: {error.strerror}; make it with `{COMMAND}`") from error
    device = re.search(r"on device `(\S+)`", text)
    if device is None:
        raise AttentionError(f"{path} is not a capability table; make one with `{COMMAND}`")
    notes = dict(re.findall(r"^(\d+)\. (.*)$", text, re.MULTILINE))
    outcomes: Outcomes = {}
    for section in text.split("\n## ")[1:]:
        kernel, _, body = section.partition("\n")
        head, _, *rows = [
            line.strip("| ").split(" | ") for line in body.splitlines() if line.startswith("|")
        ] or [[], []]
        for row in rows:
            if kernel == "Not served":
                for mechanism in row[2].split("; "):
                    outcomes[mechanism.strip("`"), row[0]] = dict.fromkeys(CHECKS, _outcome(row[1], notes))
            else:
                outcomes[row[0].strip("`"), kernel] = _found(head[1:], row[1:], notes)
    return outcomes, device[1]


def _found(names: list[str], cells: list[str], notes: dict[str, str]) -> dict[str, str]:
    found: dict[str, str] = {}
    for name, cell in zip(names, cells, strict=False):
        usual, _, exceptions = cell.partition("; ")
        found |= dict.fromkeys(columns().get(name, ()), _outcome(usual, notes))
        for exception in filter(None, exceptions.split(", ")):
            check, verdict, number = exception.rsplit(" ", 2)
            found[check] = _outcome(f"{verdict} {number}", notes)
    return found


def _outcome(verdict: str, notes: dict[str, str]) -> str:
    number = re.search(r"\[(\d+)\]$", verdict)
    return notes.get(number[1], "a note that is missing") if number else verdict
