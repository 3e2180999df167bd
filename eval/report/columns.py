"""A number of each run: what stands in a column of the comparison."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, TypeVar

from eval import catalogue, display
from eval.analysis import Analysis
from eval.report.collection import Measured, shown

T = TypeVar("T")

IDLE = ("device", "train_length", "max_length", "no_temperature", "parts")
"""Entries of a protocol that decide no number, or say what the model is; lengths count as measured."""


@dataclass(frozen=True)
class Column:
    """A number of each run.

    Attributes:
        key: unique, for the data file.
        group: the table it stands in.
        title, unit: its header.
        better: "lower", "higher", or None for a number that describes and does not rank.
        source: the analysis it comes from, or "training" or "model".
        show: how it is written.
        of: the number of a run; None where there is none.
        length: tokens per window, where the analysis measures at several lengths.
        parts: what each independent document or question contributes to it, where the analysis keeps that.
        error: how its standard error is found, where the parts do not give it.
        interval: how the ends of its 95 % interval are found, where neither gives them.
        meaning: what it is, for whoever sees it for the first time.
        headline: whether it stands on the first screen.
    """

    key: str
    group: str
    title: str
    unit: str
    better: str | None
    source: str
    show: Callable[[float], str]
    of: Callable[[Measured], float | None]
    length: str | None = None
    parts: Callable[[Measured], Mapping[str, float] | None] = lambda run: None
    error: Callable[[Measured], float | None] = lambda run: None
    interval: Callable[[Measured], Sequence[float] | None] = lambda run: None
    meaning: str = ""
    headline: bool = False

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()

    def protocol(self, run: Measured) -> Mapping[str, Any]:
        """The entries of a protocol that decided the number of a run."""
        if self.source == "model":
            return {}
        if self.source == "training":
            return {"data": (run.record or {}).get("data"), "length": run.train_length}
        found = {
            name: entry for name, entry in run.results[self.source]["protocol"].items() if name not in IDLE
        }
        if self.length is not None:
            found["windows"] = found.get("windows", {}).get(self.length)
        # What analyses of multiples of a length multiply.
        return found | {"length": getattr(run.typed[self.source], "train_length", None)}

    def signed(self, difference: float) -> str:
        """A difference between two values, with its sign; between two shares in percentage points."""
        return ("−" if difference < 0 else "+") + self.show(abs(difference)).replace("%", " pp")


def declared(analysis: Analysis[Any, Any], runs: Sequence[Measured]) -> list[Column]:
    """The columns that an analysis declares for some runs."""
    seen = shown(runs, analysis.name)
    columns = analysis.columns
    if columns is None:
        heading = analysis.heading or analysis.name.capitalize()
        found = display.columns_of(seen, lambda result: display.numbers_of_row(analysis.row(result)), heading)
    else:
        found = list(columns(seen))
    return [_bound(analysis.name, column) for column in found]


def _bound(source: str, column: display.Column[Any]) -> Column:
    """A column whose functions take a run instead of the result of an analysis."""

    def of(part: Callable[[Any], T | None]) -> Callable[[Measured], T | None]:
        return lambda run: part(run.typed[source]) if source in run.results else None

    return Column(
        key=column.key,
        group=column.group,
        title=column.title,
        unit=column.unit,
        better=column.better,
        source=source,
        show=column.show,
        of=of(column.value),
        length=column.length,
        parts=of(column.parts),
        error=of(column.error),
        interval=of(column.interval),
        meaning=column.meaning or catalogue.summary(source),
        headline=column.headline,
    )
