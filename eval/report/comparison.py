"""Runs side by side: the columns of the comparison and the best value of each.

Everything is read from result files and training logs. A number that was not measured stays missing, with the reason.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from eval import catalogue
from eval.display import finite
from eval.intervals import NORMAL, Interval, paired, standard_error, student
from eval.report import training
from eval.report.collection import Measured
from eval.report.columns import Column, declared

LEGEND = (
    "The best number of a column is marked where lower or higher is better (↓ ↑), all runs were measured alike, each "
    "has one seed, and the next best is beyond the noise: outside of the 95 % interval of the difference on the same "
    "documents or questions, or with an interval that does not overlap. It is then the best of these trained models on "
    "such text, not of their mechanisms: that takes seeds, and with several of them nothing is marked here. Without "
    "noise that is known there is no mark. A dash stands for what was not measured, ± for one standard error, [ ] for "
    "a 95 % interval (of speed: of nine in ten readings), † for a number that would now be measured otherwise: with "
    "other code, libraries, text or dtype."
)

PRIVATE = ("name", "out", "seed")
"""Config keys in which runs that differ in their seed only may differ."""


@dataclass(frozen=True)
class Cell:
    """A column's number of one run, as a number and as text; why it is missing; what of its protocol is outdated."""

    value: float | None
    text: str
    best: bool = False
    missing: str | None = None
    outdated: str | None = None


def columns(runs: Sequence[Measured]) -> list[Column]:
    """The columns of these runs, in the order of reading."""
    analyses = catalogue.every().values()
    return [*training.columns(), *(column for analysis in analyses for column in declared(analysis, runs))]


def cells(column: Column, runs: Sequence[Measured]) -> list[Cell]:
    """The column's number of each run.

    The best are marked as `LEGEND` says: if the column ranks, no run has a second seed, the runs were measured alike,
    and the next best is beyond the noise.
    """
    winners = _best(column, runs)
    values = [finite(column.of(run)) for run in runs]
    return [
        _absent(column, run) if value is None else _present(column, run, value, best=run in winners)
        for run, value in zip(runs, values, strict=True)
    ]


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


def _best(column: Column, runs: Sequence[Measured]) -> list[Measured]:
    """The runs to mark, those that show the same number; none where `cells` says so."""
    if not column.better or disagreements(column, runs) or len({kind(run) for run in runs}) < len(runs):
        return []
    ranked = known(column, runs)[:: 1 if column.better == "lower" else -1]
    winners = [run for run, value in ranked if column.show(value) == column.show(ranked[0][1])]
    others = [run for run, _ in ranked[len(winners) :]]
    apart = all(_apart(column, winner, other) for winner in winners for other in others)
    return winners if others and apart else []


def _apart(column: Column, first: Measured, second: Measured) -> bool:
    """Whether two runs differ by more than noise, as far as that is known."""
    found = difference(column, first, second)
    if found is not None:
        return found.sign != 0
    ends = [_ends(column, run) for run in (first, second)]
    known = [end for end in ends if end is not None]
    return len(known) == 2 and max(low for low, _ in known) > min(high for _, high in known)


def _ends(column: Column, run: Measured) -> Sequence[float] | None:
    """The ends of a number's 95 % interval."""
    parts, value, error = column.parts(run), finite(column.of(run)), finite(column.error(run))
    found = student(list(parts.values())) if parts else None
    if (interval := column.interval(run)) is not None:
        return interval
    if found is not None and found.low is not None and found.high is not None:
        return found.low, found.high
    return None if error is None or value is None else (value - NORMAL * error, value + NORMAL * error)


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


def _present(column: Column, run: Measured, value: float, *, best: bool) -> Cell:
    error, outdated = _error(column, run), run.outdated.get(column.source)
    interval = column.interval(run)
    noise = "" if error is None else f" ± {column.show(error)}"
    if interval is not None:
        noise = f" [{' to '.join(map(column.show, interval))}]"
    dagger = "" if outdated is None else " †"
    return Cell(value, column.show(value) + noise + dagger, best=best, outdated=outdated)
