"""Terms in which analyses say what the report shows: columns of the comparison, figures and sentences.

An analysis is given the runs that have its result (`Shown`) and returns

    columns     what each run's number is: `Column`, or made from numbers of one run by `columns_of`
    figures     curves over a common axis and grids of heads: `Figure` and `Grid`, or made from plots of one run by
                `overlaid`
    sentences   what the columns say, from `Compared`

The functions of a column take the typed result, so that a renamed field is a type error.
"""

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Generic, TypeVar

R = TypeVar("R")


@dataclass(frozen=True)
class Shown(Generic[R]):
    """A run with the result of an analysis.

    Attributes:
        name: of the run, unique in the report.
        place: of the run in the report, which decides its colour.
        label: what attends.
        train_length: tokens per training sequence.
        results: of the analysis.
        protocol: under which it was measured.
    """

    name: str
    place: int
    label: str
    train_length: int
    results: R
    protocol: Mapping[str, Any]


@dataclass(frozen=True, kw_only=True)
class Column(Generic[R]):
    """A number of each run.

    Attributes:
        key: unique, for the data file.
        group: the table it stands in.
        title, unit: its header.
        better: "lower", "higher", or None for a number that describes and does not rank.
        show: how it is written.
        value: the number; None where there is none.
        length: tokens per window, where the analysis measures at several lengths.
        parts: what each independent document or question contributes to it, by name; their mean is the value. Runs
            that were measured on the same are compared part by part.
        error: its standard error, where the parts do not give it.
        interval: the ends of its 95 % interval, where that is not 1.96 errors to either side.
        meaning: what it is, in a sentence or two for whoever sees it for the first time.
        headline: whether it stands on the first screen.
    """

    key: str
    group: str
    title: str
    unit: str = ""
    better: str | None = None
    show: Callable[[float], str]
    value: Callable[[R], float | None]
    length: str | None = None
    parts: Callable[[R], Mapping[str, float] | None] = lambda result: None
    error: Callable[[R], float | None] = lambda result: None
    interval: Callable[[R], Sequence[float] | None] = lambda result: None
    meaning: str = ""
    headline: bool = False


@dataclass(frozen=True)
class Number:
    """A number of one run.

    Attributes:
        title, unit: of its column.
        value: None where it could not be measured.
        better: as of `Column`.
        digits: significant digits of the largest number of its column; the others have as many decimals.
        parts, error, interval, meaning: as of `Column`.
    """

    title: str
    value: float | None
    unit: str = ""
    better: str | None = None
    digits: int = 3
    parts: Mapping[str, float] | None = None
    error: float | None = None
    interval: Sequence[float] | None = None
    meaning: str = ""


@dataclass(frozen=True)
class Curve:
    """One line of a figure.

    Attributes:
        label: in the legend, None for a line without an entry.
        run: place of the run, which decides colour, marker and line style.
        x, y: the points; where y is None the line is interrupted.
        band: lower and upper edge of a shaded band, or None.
        faint: thin, pale and without markers.
        dashed: dashed whatever the run's line style.
    """

    label: str | None
    run: int
    x: Sequence[float]
    y: Sequence[float | None]
    band: tuple[Sequence[float | None], Sequence[float | None]] | None = None
    faint: bool = False
    dashed: bool = False


@dataclass(frozen=True)
class Figure:
    """Curves over a common axis.

    Attributes:
        title: unique on the page.
        caption: what is drawn, under which conditions, and how to read it.
        curves: where there are none, the figure was not measured.
        x, y: labels of the axes.
        log_x: base of a logarithmic x axis.
        log_y: whether the y axis is logarithmic where the numbers span more than a factor of five.
        from_zero: whether the y axis begins at 0.
        ticks: places and labels of the x axis.
        mark: a vertical line with a label.
    """

    title: str
    caption: str
    curves: Sequence[Curve]
    x: str
    y: str
    log_x: int | None = None
    log_y: bool = False
    from_zero: bool = False
    ticks: Sequence[tuple[float, str]] | None = None
    mark: tuple[float, str] | None = None


@dataclass(frozen=True)
class Grid:
    """A number in [0, 1] for each layer and head of each run, side by side on one scale.

    Attributes:
        title, caption: as of `Figure`.
        what: label of the colour bar.
        grids: name of the run, and a list for each layer with a number for each head.
    """

    title: str
    caption: str
    what: str
    grids: Sequence[tuple[str, Sequence[Sequence[float | None]]]]


@dataclass(frozen=True)
class Line:
    """Points of a plot; where y is None the line is interrupted."""

    x: Sequence[float]
    y: Sequence[float | None]


@dataclass(frozen=True)
class Plot:
    """The part of a figure that one run draws.

    Attributes:
        title: of the figure; plots of one title are drawn into one.
        caption, x, y, log_x, log_y: as of `Figure`.
        lines: the first solid, under the run's name in the legend, the others dashed; the caption says what they are.
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


@dataclass(frozen=True)
class Compared:
    """A column as a sentence may speak of it.

    Attributes:
        means: each run's number, the smallest first; of runs that differ in their seed the mean.
        alike: whether all numbers were obtained alike, so that they compare.
        show: how a number is written.
        length: tokens per window, as of `Column`.
    """

    means: Sequence[tuple[str, float]]
    alike: bool
    show: Callable[[float], str]
    length: str | None = None

    def ranging(self, what: str) -> Iterator[str]:
        """The sentence that names the least and the largest number, where there are two that compare."""
        if len(self.means) > 1 and self.alike:
            (first, low), (last, high) = self.means[0], self.means[-1]
            yield f"{what} ranges from {self.show(low)} ({first}) to {self.show(high)} ({last})."


def columns_of(
    runs: Sequence[Shown[R]], numbers: Callable[[R], Sequence[Number]], group: str
) -> list[Column[R]]:
    """A column for each title among the numbers of the runs."""
    found: dict[str, list[Number]] = {}
    for run in runs:
        for number in numbers(run.results):
            found.setdefault(number.title, []).append(number)

    def of(result: R, title: str, part: str) -> Any:
        return next((getattr(number, part) for number in numbers(result) if number.title == title), None)

    return [
        Column(
            key=f"{group.lower()}_{title}",
            group=group,
            title=title,
            unit=some[0].unit,
            better=some[0].better,
            show=partial(_fixed, decimals=_decimals(some)),
            value=partial(of, title=title, part="value"),
            parts=partial(of, title=title, part="parts"),
            error=partial(of, title=title, part="error"),
            interval=partial(of, title=title, part="interval"),
            meaning=some[0].meaning,
        )
        for title, some in found.items()
    ]


def numbers_of_row(row: Mapping[str, object]) -> list[Number]:
    """The cells of a printed row that are numbers, unranked."""
    return [Number(title, float(value)) for title, value in row.items() if isinstance(value, int | float)]


def overlaid(runs: Sequence[Shown[R]], plots: Callable[[R], Sequence[Plot]]) -> list[Figure]:
    """A figure for each title among the plots of the runs, in which each run has its colour."""
    found: dict[str, list[tuple[Shown[R], Plot]]] = {}
    for run in runs:
        for plot in plots(run.results):
            found.setdefault(plot.title, []).append((run, plot))
    return [_overlaid(some) for some in found.values()]


def _overlaid(plots: Sequence[tuple[Shown[R], Plot]]) -> Figure:
    curves = [
        Curve(None if index else run.name, run.place, line.x, line.y, dashed=index > 0)
        for run, plot in plots
        for index, line in enumerate(plot.lines)
        if line.x
    ]
    first = plots[0][1]
    marks = {plot.mark for _, plot in plots}
    places = sorted({x for curve in curves for x in curve.x}) if first.ticks else []
    return Figure(
        first.title,
        first.caption,
        curves,
        first.x,
        first.y,
        log_x=first.log_x,
        log_y=first.log_y,
        ticks=[(x, f"{x:,g}") for x in places] or None,
        mark=marks.pop() if len(marks) == 1 else None,
    )


def of_windows(lengths: Sequence[int]) -> str:
    """The end of a heading that names the lengths of windows."""
    if not lengths:
        return ""
    least, most = min(lengths), max(lengths)
    return f" (windows of {least if least == most else f'{least} to {most}'} tokens)"


def by_layer(
    runs: Sequence[Shown[R]], of: Callable[[R], Sequence[float | None] | None], dashed: bool = False
) -> list[Curve]:
    """A curve over the layers of each run that has values; a dashed one stands without a legend."""
    found = ((run, of(run.results)) for run in runs)
    return [
        Curve(None if dashed else run.name, run.place, range(len(values)), values, dashed=dashed)
        for run, values in found
        if values
    ]


def layer_ticks(curves: Sequence[Curve]) -> list[tuple[float, str]] | None:
    """Places of the layers on the x axis, a dozen at most."""
    depth = max((len(curve.x) for curve in curves), default=0)
    return [(layer, str(layer)) for layer in range(0, depth, max(1, -(-depth // 12)))] or None


def shares(values: Mapping[str, float]) -> str:
    """Named shares in a sentence."""
    return ", ".join(f"{name} {value:.1%}" for name, value in values.items())


def whole(value: float) -> str:
    """A number without decimals."""
    return f"{value:,.0f}"


def three(value: float) -> str:
    """Three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def thousandths(value: float) -> str:
    """Three decimals."""
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def four(value: float) -> str:
    """Four decimals."""
    return f"{value:.4f}"


def percent(value: float) -> str:
    """A share in percent."""
    return f"{value:.1%}"


def finite(value: float | None) -> float | None:
    """The number; None where there is none, or it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"


def _decimals(numbers: Sequence[Number]) -> int:
    """Decimals with which the largest number of a column has so many significant digits; its noise gets as many."""
    values = [finite(number.value) for number in numbers]
    largest = max((abs(value) for value in values if value), default=1.0)
    return max(0, numbers[0].digits - 1 - math.floor(math.log10(largest)))
