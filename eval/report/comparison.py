"""Runs side by side: the columns of the comparison and the numbers of each run.

Everything is read from result files and training logs. A number that was not measured stays missing, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from eval import catalogue
from eval.display import finite
from eval.intervals import Interval, paired, standard_error
from eval.report import training
from eval.report.collection import Measured
from eval.report.columns import Column, declared

LEGEND = (
    "A dash stands for what was not measured, ± for one standard error, [ ] for a 95 % interval (of speed: of nine in "
    "ten readings), † for a number that would now be measured otherwise: with other code, libraries, text or dtype. "
    "Both speak of the text and the questions that these trained models were measured on, not of other seeds."
)

PRIVATE = ("name", "out", "seed")
"""Config keys in which runs that differ in their seed only may differ."""


@dataclass(frozen=True)
class Cell:
    """A column's number of one run, as a number and as text; why it is missing; what of its protocol is outdated."""

    value: float | None
    text: str
    missing: str | None = None
    outdated: str | None = None


def columns(runs: Sequence[Measured]) -> list[Column]:
    """The columns of these runs, in the order of reading."""
    analyses = catalogue.every().values()
    return [*training.columns(), *(column for analysis in analyses for column in declared(analysis, runs))]


def cells(column: Column, runs: Sequence[Measured]) -> list[Cell]:
    """The column's number of each run."""
    values = [(run, finite(column.of(run))) for run in runs]
    return [_absent(column, run) if value is None else _present(column, run, value) for run, value in values]


def known(column: Column, runs: Sequence[Measured]) -> list[tuple[Measured, float]]:
    """The runs that have a number, and their numbers, the smallest first."""
    found = [(run, value) for run in runs if (value := finite(column.of(run))) is not None]
    return sorted(found, key=lambda entry: (entry[1], entry[0].name))


def disagreements(column: Column, runs: Sequence[Measured]) -> list[str]:
    """Entries of the protocols in which the runs differ, so that their numbers do not compare.

    Args:
        column: the numbers.
        runs: those without one do not matter.
    """
    protocols = [column.protocol(run) for run in runs if column.of(run) is not None]
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    return [name for name in names if any(a.get(name) != b.get(name) for a, b in pairwise(protocols))]


def difference(column: Column, first: Measured, second: Measured) -> Interval | None:
    """First minus second on the same documents or questions; None where these are not known of both."""
    mine, theirs = column.parts(first), column.parts(second)
    return paired(mine, theirs) if mine and theirs and mine.keys() == theirs.keys() else None


def kind(run: Measured) -> str:
    """A key that runs share which differ in their seed only; that of a model that others trained is its name."""
    kept = {key: value for key, value in (run.config or {}).items() if key not in PRIVATE}
    return repr((run.label, _sorted(kept))) if run.config else run.name


def _error(column: Column, run: Measured) -> float | None:
    parts = column.parts(run)
    return standard_error(parts.values()) if parts else finite(column.error(run))


def _sorted(value: Any) -> Any:
    return (
        sorted((key, _sorted(entry)) for key, entry in value.items()) if isinstance(value, Mapping) else value
    )


def _absent(column: Column, run: Measured) -> Cell:
    return Cell(
        None, "–", missing=run.missing.get(column.source, f"not in the {column.source} data of this run")
    )


def _present(column: Column, run: Measured, value: float) -> Cell:
    error, outdated = _error(column, run), run.outdated.get(column.source)
    interval = column.interval(run)
    noise = "" if error is None else f" ± {column.show(error)}"
    if interval is not None:
        noise = f" [{' to '.join(map(column.show, interval))}]"
    dagger = "" if outdated is None else " †"
    return Cell(value, column.show(value) + noise + dagger, outdated=outdated)
