"""The figures of the report, drawn with matplotlib: curves, head grids and attention heatmaps.

A run keeps its colour and marker in every figure; the colours are Okabe and Ito's, told apart by colour-blind eyes too.
Text and axes are drawn in an ink that `svg` turns into the colour of the page, so that figures follow its dark mode.
"""

import io
import math
import re
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, ListedColormap, LogNorm, Normalize, to_hex, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import FixedLocator, MaxNLocator, NullLocator

from eval.analyses.heatmaps import Panel
from models import ModelError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d46", "#7f7f7f")
"""Colour of each run, in the order they are named; with more runs they repeat with another line style."""

MARKERS = "os^DvPX*"
INK = "#010203"
ZERO = (0.5, 0.5, 0.5, 0.28)
DECADES = 4
"""Orders of magnitude below its largest weight that the log colour scale spans."""

STYLE: dict[str, Any] = {
    "svg.fonttype": "none",
    "text.parse_math": False,
    "font.size": 8.5,
    "axes.titlesize": 8.5,
    "axes.linewidth": 0.6,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.formatter.useoffset": False,
    "grid.color": INK,
    "grid.alpha": 0.12,
    "grid.linewidth": 0.6,
    "lines.linewidth": 1.5,
    "lines.markersize": 4,
    "legend.frameon": False,
    "legend.fontsize": 7.5,
    "legend.handlelength": 2.2,
    "savefig.transparent": True,
    **dict.fromkeys(("text.color", "axes.labelcolor", "axes.edgecolor", "xtick.color", "ytick.color"), INK),
}


@dataclass(frozen=True)
class Curve:
    """One line of a plot.

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
class Scale:
    """The colour scale that several heatmaps share: "log" or "linear", of magnitudes from `low` to `high`.

    Where `signed`, it diverges from zero: negative weights are blue, positive ones red, by magnitude.
    """

    kind: str
    low: float
    high: float
    signed: bool = False

    @classmethod
    def shared(cls, panels: Sequence[Sequence[Panel]], kind: str) -> "Scale":
        """The scale that ends at the largest magnitude of all panels, signed if any of their weights is negative."""
        matrices = [panel.matrix for row in panels for panel in row]
        high = max((float(np.nanmax(np.abs(matrix))) for matrix in matrices), default=0.0) or 1.0
        low = high * 10.0**-DECADES if kind == "log" else 0.0
        return cls(kind, low, high, any((matrix < 0).any() for matrix in matrices))

    @property
    def norm(self) -> Normalize:
        """Maps weights to [0, 1]; on a log scale magnitudes below `low` count as `low`."""
        if self.signed and self.kind == "log":
            return FuncNorm((self._decades, self._inverse), -self.high, self.high, clip=True)
        if self.signed:
            return Normalize(-self.high, self.high, clip=True)
        return (LogNorm if self.kind == "log" else Normalize)(self.low, self.high, clip=True)

    @property
    def colormap(self) -> Colormap:
        """Of `norm`, for a white page."""
        return matplotlib.colormaps["RdBu_r"] if self.signed else _colours()

    @property
    def ticks(self) -> list[float] | None:
        """Places to name on a colour bar, where matplotlib's own choice would crowd."""
        if not (self.signed and self.kind == "log"):
            return None
        decades = [self.high / 10.0**step for step in range(0, DECADES, 2)]
        return [-weight for weight in decades] + [0.0] + decades[::-1]

    @property
    def words(self) -> str:
        """The scale, stated for a caption."""
        high = _plain(float(f"{self.high:.3g}"))
        if self.signed:
            return f"{self.kind} scale of magnitude, −{high} to {high}" + (
                f", neutral below {_plain(float(f'{self.low:.3g}'))}" if self.kind == "log" else ""
            )
        if self.kind == "log":
            return f"log scale, {_plain(float(f'{self.low:.3g}'))} or less to {high}"
        return f"linear scale, 0 to {high}"

    def colours(self, matrix: np.ndarray) -> np.ndarray:
        """RGBA [T, T, 4] of a matrix of weights: zeros grey, nan transparent."""
        weights = np.nan_to_num(matrix, nan=self.high)
        image = self.colormap(self.norm(weights if self.signed else weights.clip(self.low or None)))
        image[matrix == 0] = ZERO
        image[np.isnan(matrix)] = 0
        return image

    def _decades(self, weights: np.ndarray) -> np.ndarray:
        """Decades above `low`, with the weight's sign."""
        return np.sign(weights) * np.log10(np.maximum(np.abs(weights), self.low) / self.low)

    def _inverse(self, decades: np.ndarray) -> np.ndarray:
        return np.sign(decades) * self.low * 10.0 ** np.abs(decades)


def curves(
    lines: Sequence[Curve],
    *,
    x: str,
    y: str,
    log_x: int | None = None,
    log_y: bool = False,
    from_zero: bool = False,
    ticks: Sequence[tuple[float, str]] | None = None,
    mark: tuple[float, str] | None = None,
) -> Figure:
    """Lines over a common axis.

    Args:
        lines: what to draw.
        x, y: axis labels.
        log_x: base of a logarithmic x axis.
        log_y: logarithmic y axis, where the numbers span more than a factor of five.
        from_zero: the y axis begins at 0.
        ticks: places and labels of the x axis.
        mark: a vertical line with a label.
    """
    with _style():
        figure, axes = _figure(4.6, 3.0)
        for line in lines:
            _draw(axes, line)
        if log_x is not None:
            axes.set_xscale("log", base=log_x)
            axes.xaxis.set_major_formatter(lambda value, _: f"{value:,g}")
            axes.xaxis.set_minor_locator(NullLocator())
        elif ticks is None:
            axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        if log_y and _spans(lines) > 5:
            axes.set_yscale("log")
            _plain_ticks(axes)
        if from_zero:
            axes.set_ylim(0, 1.05 * axes.dataLim.ymax or 1)
        if ticks is not None:
            axes.xaxis.set_major_locator(FixedLocator([place for place, _ in ticks]))
            axes.xaxis.set_minor_locator(NullLocator())
            axes.set_xticklabels([label for _, label in ticks])
        if mark is not None:
            axes.axvline(mark[0], color=INK, linewidth=0.8, linestyle=":")
            axes.annotate(
                mark[1],
                (mark[0], 1),
                xycoords=("data", "axes fraction"),
                xytext=(3, -8),
                textcoords="offset points",
                fontsize=7,
            )
        axes.set_xlabel(x)
        axes.set_ylabel(y)
        if any(line.label for line in lines):
            figure.legend(loc="outside lower center", ncols=2 if len(lines) > 1 else 1)
        return figure


def head_grids(grids: Sequence[tuple[str, Sequence[Sequence[float | None]]]], what: str) -> Figure:
    """A number in [0, 1] for each layer and head of each run, side by side on one scale; "n/a" where None."""
    with _style(**{"axes.grid": False, "font.size": 7, "axes.titlesize": 7.5}):
        columns = min(len(grids), 4)
        rows = -(-len(grids) // columns)
        height = max(len(grid) for _, grid in grids)
        figure = Figure(figsize=(9.2, rows * (0.22 * height + 0.6) + 0.4), layout="constrained")
        cells = list(figure.subplots(rows, columns, squeeze=False).flat)
        for axes in cells[len(grids) :]:
            axes.set_axis_off()
        norm = Normalize(0, 1)
        for axes, (title, grid) in zip(cells, grids, strict=False):
            values = np.array([[math.nan if value is None else value for value in layer] for layer in grid])
            axes.imshow(values, cmap=_colours(), norm=norm, aspect="auto", interpolation="nearest")
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
            axes.set_title(_short(title, 30), loc="left")
            axes.set_xticks(range(values.shape[1]))
            axes.set_yticks(range(values.shape[0]))
            axes.set_xlabel("head")
            axes.set_ylabel("layer")
            _bare(axes)
        bar = figure.colorbar(
            ScalarMappable(norm, _colours()), ax=cells, location="bottom", shrink=0.4, aspect=40, pad=0.02
        )
        bar.set_label(what)
        bar.outline.set_visible(False)
        return figure


def heatmaps(panels: Sequence[Sequence[Panel]], scale: Scale, prompt: str) -> Figure:
    """A grid of heatmaps of one prompt on one colour scale, a column for each run, with a legend of the scale.

    Where all runs read the prompt as the same tokens, these are written once to a row and once to a column.
    """
    with _style(**{"axes.grid": False}):
        rows, columns = len(panels), len(panels[0])
        shared = len({tuple(panel.labels) for line in panels for panel in line}) == 1
        # Places are computed here: matplotlib's layout measures every label, which takes longer than all drawing.
        size = _side(max(len(panel.labels) for panel in panels[0]))
        tokens, titles, head, foot = 0.6, 0.45, 0.35, 1.0
        across, down = (size + part + (0 if shared else tokens) for part in (0.2, titles))
        width = max(tokens + columns * across, 6.0)
        height = head + rows * down + tokens * shared + foot
        figure = Figure(figsize=(width, height))
        for i, line in enumerate(panels):
            for j, panel in enumerate(line):
                left, top = tokens + j * across, head + i * down + titles
                axes = figure.add_axes((left / width, 1 - (top + size) / height, size / width, size / height))
                _heatmap(
                    axes, panel, scale, size, rows=not shared or j == 0, columns=not shared or i == rows - 1
                )
                axes.set_title(f"{_short(panel.title, 50)}, {panel.place}\n{panel.caption}", loc="left")
        figure.text(
            0.5,
            1 - 0.2 / height,
            f"Prompt: {_short(' '.join(prompt.split()), int(14 * width))}",
            ha="center",
            va="center",
            fontsize=8,
        )
        _legend(figure, figure.add_axes((0.2, 0.78 / height, 0.6, 0.12 / height)), scale)
        return figure


def palettes() -> dict[str, list[str]]:
    """Colours for pages that paint heatmaps themselves: evenly spaced stops from low to high.

    "sequential" for magnitudes; "light" and "dark" diverge from the middle, for pages of either kind.
    """
    maps = {
        "sequential": _colours(),
        "light": matplotlib.colormaps["RdBu_r"],
        "dark": matplotlib.colormaps["berlin"],
    }
    return {name: [to_hex(found(place)) for place in np.linspace(0, 1, 33)] for name, found in maps.items()}


def colour(run: int) -> str:
    """The colour of the run at this place."""
    return COLOURS[run % len(COLOURS)]


def save(figure: Figure, stem: Path) -> list[Path]:
    """Write `stem`.png and `stem`.svg, for a white page. Returns their paths.

    Raises:
        ModelError: they cannot be written.
    """
    files = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for file in files:
            with _style(**{"svg.fonttype": "path"}):
                metadata = {"Date": None, "Creator": None} if file.suffix == ".svg" else {"Software": None}
                figure.savefig(file, dpi=150, transparent=False, facecolor="white", metadata=metadata)
    except OSError as error:
        raise ModelError(f"cannot write {stem}.png and .svg: {error.strerror}") from error
    return files


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as inline SVG: text stays text, ink takes the page's colour, ids begin with `name`.

    Args:
        figure: to draw.
        name: unique on the page.
        label: what it shows, for readers who cannot see it.
    """
    with _style(**{"svg.hashsalt": name}):
        buffer = io.StringIO()
        figure.savefig(buffer, format="svg", metadata={"Date": None, "Creator": None})
    root = ElementTree.fromstring(buffer.getvalue())
    for parent in root.iter():
        for child in [child for child in parent if child.tag.endswith(("}metadata", "}style"))]:
            parent.remove(child)
    for element in root.iter():
        element.tag = element.tag.rpartition("}")[2]
        if element.tag != "text":
            element.text = None
        element.tail = None
        attributes = {
            key.rpartition("}")[2]: _inlined(key, value, name) for key, value in element.attrib.items()
        }
        if element.tag == "g":
            attributes.pop("id", None)
        elif "id" in attributes:
            attributes["id"] = f"{name}-{attributes['id']}"
        element.attrib.clear()
        element.attrib.update(attributes)
    root.attrib.clear()
    width, height = figure.get_size_inches() * 72
    root.attrib.update({"viewBox": f"0 0 {width:g} {height:g}", "role": "img", "aria-label": label})
    return ElementTree.tostring(root, encoding="unicode")


def _inlined(key: str, value: str, name: str) -> str:
    """An attribute for a page of many drawings: own ids, the page's colour and typeface."""
    if key.endswith("href"):
        return re.sub("^#", f"#{name}-", value)
    value = value.replace("url(#", f"url(#{name}-")
    value = re.sub(r"font: ([\d.]+px) [^;]*", r"font-size: \1", value)
    return re.sub(r"font-family: [^;]*; ?", "", value).replace(INK, "currentColor")


@contextmanager
def _style(**changes: Any) -> Iterator[None]:
    style: Any = {**STYLE, "svg.hashsalt": "figure", **changes}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Token pieces may hold any script; the browser has glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def _figure(width: float, height: float) -> tuple[Figure, Axes]:
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def _draw(axes: Axes, line: Curve) -> None:
    paint = colour(line.run)
    y = [math.nan if value is None else value for value in line.y]
    if line.band is not None:
        low, high = ([math.nan if value is None else value for value in edge] for edge in line.band)
        axes.fill_between(line.x, low, high, color=paint, alpha=0.15, linewidth=0)
    style = "--" if line.dashed else ("-", "--", "-.", ":")[line.run // len(COLOURS) % 4]
    label = line.label and _short(line.label, 34)
    if line.faint:
        axes.plot(line.x, y, color=paint, linestyle=style, linewidth=0.8, alpha=0.45, label=label)
    else:
        few = len(line.x) <= 40
        marker = MARKERS[line.run % len(MARKERS)] if few and not line.dashed else None
        axes.plot(line.x, y, color=paint, linestyle=style, marker=marker, label=label)


def _spans(lines: Sequence[Curve]) -> float:
    """The ratio of the largest to the smallest number; 0 where a logarithm does not exist."""
    numbers = [value for line in lines for value in line.y if value is not None]
    return max(numbers) / min(numbers) if numbers and min(numbers) > 0 else 0.0


def _plain_ticks(axes: Axes) -> None:
    """Plain numbers on a logarithmic y axis, also where it spans less than a decade."""
    low, high = axes.get_ylim()
    axes.yaxis.set_major_formatter(lambda value, _: _plain(value))
    axes.yaxis.set_minor_formatter(
        lambda value, _: _plain(value) if high / low < 50 and f"{value:e}"[0] in "235" else ""
    )


def _plain(value: float) -> str:
    return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:g}"


def _heatmap(axes: Axes, panel: Panel, scale: Scale, inches: float, *, rows: bool, columns: bool) -> None:
    """One panel; `rows` and `columns` say whether tokens are written to them."""
    axes.imshow(scale.colours(panel.matrix), interpolation="nearest")
    every = max(1, len(panel.labels) // 64)
    places = range(0, len(panel.labels), every)
    labels = [_short(_visible(panel.labels[place]), 10) for place in places]
    size = max(2.5, min(7.0, 0.92 * 72 * inches / len(panel.labels)))
    axes.set_xticks(places if columns else [], labels if columns else [], rotation=90, fontsize=size)
    axes.set_yticks(places if rows else [], labels if rows else [], fontsize=size)
    _bare(axes)


def _legend(figure: Figure, axes: Axes, scale: Scale) -> None:
    bar = figure.colorbar(
        ScalarMappable(scale.norm, scale.colormap),
        cax=axes,
        orientation="horizontal",
        ticks=scale.ticks,
        format=lambda value, _: _plain(value),
    )
    bar.outline.set_visible(False)
    bar.set_label(f"attention weight, {scale.words}, the same for all panels (rows: queries, columns: keys)")
    entries = [
        Patch(facecolor=to_rgba(ZERO), label="exactly 0"),
        Patch(facecolor="none", edgecolor=INK, linewidth=0.4, label="blank: not visible to the query"),
    ]
    figure.legend(handles=entries, loc="lower center", ncols=2)


def _bare(axes: Axes) -> None:
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def _side(tokens: int) -> float:
    """Inches of a heatmap such that labels of this many tokens can be read."""
    return min(8.0, max(2.6, tokens * 0.075))


def _colours() -> Colormap:
    """Viridis without its darkest sixth, which would vanish on a dark page."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.16, 1, 256)))


def _visible(piece: str) -> str:
    """A token for an axis: white space shown, never an empty string."""
    shown = piece.replace("\n", "↵").replace("\t", "⇥")
    return shown.replace("▁", "·").replace(" ", "·") or "∅"


def _short(text: str, longest: int) -> str:
    return text if len(text) <= longest else text[: longest - 1] + "…"
