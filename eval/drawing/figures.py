"""Curves and grids of heads, drawn with matplotlib."""

import math
from collections.abc import Sequence

import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Normalize
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from eval import display
from eval.display import Curve
from eval.drawing.style import COLOURS, INK, MARKERS, bare, colour, colours, plain, short, style


def curves(figure: display.Figure) -> Figure:
    """Lines over a common axis."""
    with style():
        drawn, axes = _figure(4.6, 3.0)
        for curve in figure.curves:
            _draw(axes, curve)
        if figure.log_x is not None:
            axes.set_xscale("log", base=figure.log_x)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.xaxis.set_minor_locator(NullLocator())
        elif figure.ticks is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if figure.log_y and _spans(figure.curves) > 5:
            axes.set_yscale("log")
            _plain_ticks(axes)
        if figure.from_zero:
            axes.set_ylim(0, 1.05 * axes.dataLim.ymax or 1)
        if figure.ticks is not None:
            axes.xaxis.set_major_locator(FixedLocator([place for place, _ in figure.ticks]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([label for _, label in figure.ticks])
        if figure.mark is not None:
            axes.axvline(figure.mark[0], color=INK, linewidth=0.8, linestyle=":")
            axes.annotate(
                figure.mark[1],
                (figure.mark[0], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -8),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_xlabel(figure.x)
        axes.set_ylabel(figure.y)
        if any(curve.label for curve in figure.curves):
            drawn.legend(loc="outside lower center", ncols=2 if len(figure.curves) > 1 else 1)
        return drawn


def grids(grid: display.Grid) -> Figure:
    """A number in [0, 1] for each layer and head of each run, side by side on one scale; "n/a" where None."""
    with style(**{"axes.grid": False, "font.size": 7, "axes.titlesize": 7.5}):
        columns = min(len(grid.grids), 4)
        rows = -(-len(grid.grids) // columns)
        height = max(len(layers) for _, layers in grid.grids)
        figure = Figure(figsize=(9.2, rows * (0.22 * height + 0.6) + 0.4), layout="constrained")
        cells = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in cells[len(grid.grids) :]:
            axes.set_axis_off()
        norm = Normalize(0, 1)
        for axes, (title, layers) in zip(cells, grid.grids, strict=False):
            values = np.array([[math.nan if value is None else value for value in layer] for layer in layers])
            axes.imshow(values, cmap=colours(), norm=norm, aspect="auto", interpolation="nearest")
            for (layer, head), value in np.ndenumerate(values):
                text = "n/a" if math.isnan(value) else f"{value:.2f}"
                paint = INK if math.isnan(value) else "black" if value > 0.6 else "white"
                axes.text(
                    head,
                    layer,
                    text,
                    ha="center",
                    va="center",
                    fontsize=min(6.5, 70 / values.shape[1]),
                    color=paint,
                )
            axes.set_title(short(title, 30), loc="left")
            axes.set_xticks(range(values.shape[1]))
            axes.set_yticks(range(values.shape[0]))
            axes.set_xlabel("head")
            axes.set_ylabel("layer")
            bare(axes)
        bar = figure.colorbar(
            ScalarMappable(norm, colours()), ax=cells, location="bottom", shrink=0.4, aspect=40, pad=0.02
        )
        bar.set_label(grid.what)
        bar.outline.set_visible(False)
        return figure


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _draw(axes: Axes, line: Curve) -> None:
    paint = colour(line.run)
    y = [math.nan if value is None else value for value in line.y]
    if line.band is not None:
        low, high = ([math.nan if value is None else value for value in edge] for edge in line.band)
        axes.fill_between(line.x, low, high, color=paint, alpha=0.15, linewidth=0)
    dashes = "--" if line.dashed else ("-", "--", "-.", ":")[line.run // len(COLOURS) % 4]
    label = line.label and short(line.label, 34)
    if line.faint:
        axes.plot(line.x, y, color=paint, linestyle=dashes, linewidth=0.8, alpha=0.45, label=label)
    else:
        few = len(line.x) <= 40
        marker = MARKERS[line.run % len(MARKERS)] if few and not line.dashed else None
        axes.plot(line.x, y, color=paint, linestyle=dashes, marker=marker, label=label)


def _spans(lines: Sequence[Curve]) -> float:
    """The ratio of the largest to the smallest number; 0 where a logarithm does not exist."""
    numbers = [value for line in lines for value in line.y if value is not None and math.isfinite(value)]
    return max(numbers) / min(numbers) if numbers and min(numbers) > 0 else 0.0


def _plain_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic y axis, also where it spans less than a decade."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: plain(value))
    axes.yaxis.set_minor_formatter(
        lambda value, _: plain(value) if high / low < 50 and f"{value:e}"[0] in "235" else ""
    )
