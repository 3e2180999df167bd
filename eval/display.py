"""What an analysis shows in the report: numbers and plots of one run, which the report puts side by side.

An analysis defines `numbers(results)` or `plots(results)`, or both, and the report has a table and a section of it.
Numbers of one title form a column, plots of one title a figure in which each run has its colour. Without `numbers`, the
cells of `row(results)` that are numbers are shown, unranked.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Number:
    """A cell of the report.

    Attributes:
        title, unit: of its column.
        value: None where it could not be measured.
        better: "lower", "higher", or None for a number that describes and does not rank.
        digits: significant digits of the largest number of its column; the others have as many decimals.
        parts: what each independent document or question contributes to it, by name; their mean is the value. Runs
            that were measured on the same are compared part by part.
        error: its standard error, where the parts do not give it.
        interval: the ends of its 95 % interval, where that is not 1.96 errors to either side.
    """

    title: str
    value: float | None
    unit: str = ""
    better: str | None = None
    digits: int = 3
    parts: Mapping[str, float] | None = None
    error: float | None = None
    interval: Sequence[float] | None = None


@dataclass(frozen=True)
class Line:
    """Points of a plot; where y is None the line is interrupted."""

    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Plot:
    """What one run draws into a figure.

    Attributes:
        title: of the figure; plots of one title are drawn into one.
        caption: what is drawn, under which conditions, and how to read it.
        x, y: labels of the axes.
        lines: the first solid, under the run's name in the legend, the others dashed; the caption says what they are.
        log_x: base of a logarithmic x axis.
        log_y: whether the y axis is logarithmic where the numbers span more than a factor of five.
        ticks: whether the x axis is labelled at the points and nowhere else.
        mark: a vertical line and its label, drawn if all runs have the same.
    """

    title: str
    caption: str
    x: str
    y: str
    lines: Sequence[Line]
    log_x: int | None = None
    log_y: bool = False
    ticks: bool = False
    mark: tuple[float, str] | None = None
