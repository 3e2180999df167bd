"""The forest: a row per variant, a panel per number, each cell the difference from the baseline with its interval.

Cells are placed in percent of their panel, so that a page needs no script to draw them. A panel has one scale, which
holds zero. Ends that lie far beyond the others' are cut off, so that one variant that diverged does not hide the rest.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import median

from matplotlib.axes import Axes
from matplotlib.figure import Figure

from eval.drawing.style import INK, short, style
from eval.intervals import Interval
from eval.report.numbers import Number, interval

BETTER, WORSE, OPEN = "#009e73", "#d55e00", "#8f939a"
"""Colours of a difference beyond the noise, to either side, and of one within it."""

FAR = 4
"""An end is cut off that is so many times as far from zero as half of the ends, and half as many as three quarters."""

MARGIN = 0.06
"""Of the width of a panel, to either side."""

ACROSS = 4
"""Panels beside each other in a figure."""


@dataclass(frozen=True)
class Cell:
    """One difference.

    Attributes:
        mean: of the difference, to sort by.
        text: the mean as text.
        words: all about it in a sentence.
        kind: "better" or "worse" beyond the noise of seeds; "open" within it; "lone" where a single seed says nothing
            of other seeds.
        dot: the place of the mean, in percent.
        bar: left end and width of the interval, in percent; None where there is none.
        cut: the sides on which something is cut off: "", "left", "right" or "left right".
    """

    mean: float
    text: str
    words: str
    kind: str
    dot: float
    bar: tuple[float, float] | None
    cut: str


@dataclass(frozen=True)
class Panel:
    """One number of all variants.

    Attributes:
        number: that it shows.
        ends: the differences at its left and right end, as text.
        zero: the place of zero, in percent.
        cells: by variant; without those that have no difference.
    """

    number: Number
    ends: tuple[str, str]
    zero: float
    cells: dict[str, Cell]


def compared(numbers: Sequence[Number]) -> list[Number]:
    """The numbers that have differences from the baseline."""
    return [number for number in numbers if number.pairs]


def panels(numbers: Sequence[Number]) -> list[Panel]:
    """A panel for each number that has a difference."""
    return list(map(_panel, compared(numbers)))


def spread(number: Number) -> tuple[float, float]:
    """The ends of a panel's scale."""
    ends = [
        end for found in number.differences.values() for end in (found.low, found.mean, found.high) if end
    ]
    far = sorted(abs(end) for end in ends) or [1.0]
    usual = FAR * max(median(far), far[len(far) * 3 // 4] / 2)
    low, high = min([0.0, *(end for end in ends if end < 0)]), max([0.0, *(end for end in ends if end > 0)])
    if low == high:
        return -1.0, 1.0
    means = [found.mean for found in number.differences.values()]
    if len(means) >= 2 * FAR:
        low, high = max(low, -usual), min(high, usual)
    margin = MARGIN * (high - low)
    return low - margin, high + margin


def _panel(number: Number) -> Panel:
    low, high = spread(number)

    def place(value: float) -> float:
        return round(100 * min(1.0, max(0.0, (value - low) / (high - low))), 2)

    def between(left: float, right: float) -> tuple[float, float]:
        return place(left), round(place(right) - place(left), 2)

    cells = {}
    for variant, found in number.pairs.items():
        ends = found.interval.low, found.interval.high
        left, right = (found.interval.mean if end is None else end for end in ends)
        cells[variant] = Cell(
            mean=found.interval.mean,
            text=number.signed(found.interval.mean),
            words=_words(number, variant),
            kind=number.verdict(variant) or ("open" if found.over in ("seeds", "rounds") else "lone"),
            dot=place(found.interval.mean),
            bar=None if None in ends else between(left, right),
            cut=" ".join(side for side, beyond in (("left", left < low), ("right", right > high)) if beyond),
        )
    return Panel(
        number,
        (_end(number, low), _end(number, high)),
        place(0),
        cells,
    )


def _end(number: Number, value: float) -> str:
    """An end of a scale, in two digits."""
    share = "%" in number.show(0.0)
    text = f"{100 * value if share else value:+.2g}".replace("-", "−")
    return f"{text} pp" if share else text


def _words(number: Number, variant: str) -> str:
    found = number.pairs[variant]
    over = {
        "seeds": f"95 % interval over {found.units} seeds",
        "parts": f"95 % interval over {found.units} documents or questions, one seed",
        "rounds": f"95 % interval of the median of {found.units} rounds",
        None: "one seed",
    }[found.over]
    if found.over == "seeds" and found.interval.low is None:
        over = f"the same with each of {found.units} seeds, so no interval"
    return (
        f"{number.heading}: {variant} − {number.baseline} = {interval(found.interval, number.signed)}; {over}"
    )


def figure(numbers: Sequence[Number], variants: Sequence[str], across: int = ACROSS) -> Figure:
    """The forest as a figure for a paper; a number without an interval is a ring, one beyond the scale an arrow.

    Args:
        numbers: with differences.
        variants: in the order of the rows; the baseline has none.
        across: panels beside each other.
    """
    rows = [name for name in variants if any(name in number.pairs for number in numbers)]
    columns = min(across, len(numbers))
    down = -(-len(numbers) // columns)
    with style(**{"axes.grid": False}):
        drawn = Figure(figsize=(1.1 + 2.1 * columns, down * (0.24 * len(rows) + 0.75)), layout="constrained")
        places = drawn.subplots(down, columns, squeeze=False, sharey=True)
        for axes in places.flat[len(numbers) :]:
            axes.set_axis_off()
        for axes, number in zip(places.flat, numbers, strict=False):
            axes.axvline(0, color=INK, linewidth=0.6)
            axes.set_xlim(*spread(number))
            for row, variant in enumerate(rows):
                if variant not in number.differences:
                    continue
                found = number.differences[variant]
                paint = {"better": BETTER, "worse": WORSE, None: OPEN}[number.verdict(variant)]
                _draw(axes, row, number, found, paint)
            axes.set_title(f"{short(number.title, 32)} {number.arrow}".strip(), loc="left")
            axes.set_xlabel(short(number.unit, 32), fontsize=7.5)
            axes.set_yticks(range(len(rows)), rows)
            axes.set_ylim(len(rows) - 0.5, -0.5)
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        return drawn


def _draw(axes: Axes, row: int, number: Number, found: Interval, paint: str) -> None:
    """One difference; where its mean lies beyond the scale, an arrow at the end, and the number."""
    low, high = axes.get_xlim()
    if not low <= found.mean <= high:
        end, arrow, inwards, side = (high, ">", -6, "right") if found.mean > high else (low, "<", 6, "left")
        axes.plot(end, row, arrow, color=paint, clip_on=False)
        axes.annotate(
            number.signed(found.mean),
            (end, row),
            (inwards, 0),
            textcoords="offset points",
            ha=side,
            va="center",
            fontsize=6.5,
        )
    elif found.low is None or found.high is None:
        axes.plot(found.mean, row, "o", color=paint, fillstyle="none")
    else:
        axes.plot([found.low, found.high], [row, row], color=paint, solid_capstyle="butt")
        axes.plot(found.mean, row, "o", color=paint)
