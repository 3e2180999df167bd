"""docs/reliability.md: a section per table, each written by the command that stands above it."""

from collections import Counter
from collections.abc import Iterable
from importlib import import_module
from pathlib import Path
from types import ModuleType

from tests.reliability.trial import Trial

TITLE = """\
# What it survives

This page counts faults that were made on purpose: invalid calls, full disks, killed processes, damaged files. Each
must end in the right answer or in one clear line. Every table is written by the command above it, never by hand; a
short version of each runs with the tests.
"""
NOT_TABLES = {"__init__", "__main__", "trial", "page"}


def tables() -> list[str]:
    """Names of the tables: the modules of this folder that have trials."""
    found = sorted(path.stem for path in Path(__file__).parent.glob("*.py"))
    return [name for name in found if name not in NOT_TABLES and not name.startswith(("test_", "_"))]


def table(name: str) -> ModuleType:
    """The module of a table."""
    return import_module(f"tests.reliability.{name}")


def section(name: str, trials: Iterable[Trial], command: str, machine: str) -> str:
    """A table as Markdown, under its heading and the command that made it."""
    summary, _, explanation = (table(name).__doc__ or name).strip().partition("\n")
    rows = _rows(list(trials))
    parts = [f"## {name}: {summary.rstrip('.')}", explanation.strip(), f"`{command}`, {machine}:", rows]
    return "\n\n".join(filter(None, parts)) + "\n"


def _rows(trials: list[Trial]) -> str:
    header = ["| class of fault | tried | survived | how | failures |", "| --- | --- | --- | --- | --- |"]
    rows = []
    for kind in dict.fromkeys(trial.kind for trial in trials):
        here = [trial for trial in trials if trial.kind == kind]
        failed = [trial for trial in here if trial.failure]
        outcomes = Counter(trial.outcome for trial in here if trial.outcome and not trial.failure)
        how = "; ".join(f"{count} {outcome}" for outcome, count in outcomes.most_common())
        failures = "; ".join(f"{trial.case}: {trial.failure}".replace("|", "\\|") for trial in failed[:3])
        more = f"; and {len(failed) - 3} more" if len(failed) > 3 else ""
        rows.append(
            f"| {kind} | {len(here)} | {len(here) - len(failed)} | {how} | {failures or 'none'}{more} |"
        )
    survived = sum(not trial.failure for trial in trials)
    rows.append(f"| **all** | {len(trials)} | {survived} | | {len(trials) - survived or 'none'} |")
    return "\n".join(header + rows)


def write(path: Path, name: str, text: str) -> None:
    """Put a section on the page, in the place of its older self; the other sections stay."""
    known = path.read_text().split("\n## ")[1:] if path.exists() else []
    sections = {part.partition(":")[0]: f"## {part}".rstrip() + "\n" for part in known} | {name: text}
    path.write_text("\n".join([TITLE, *(sections[name] for name in sorted(sections))]))
