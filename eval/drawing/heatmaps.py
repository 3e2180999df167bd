"""Attention heatmaps side by side on one colour scale."""

from collections.abc import Sequence
from dataclasses import dataclass

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.cm import ScalarMappable
from matplotlib.colors import Colormap, FuncNorm, LogNorm, Normalize, to_rgba
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from eval.drawing.panels import Panel
from eval.drawing.panels import short as residual
from eval.drawing.style import DECADES, INK, bare, colours, plain, short, style

ZERO = (0.5, 0.5, 0.5, 0.28)
"""Colour of a weight that is exactly zero."""


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
        """The colours of `norm`, for a white page."""
        return matplotlib.colormaps["RdBu_r"] if self.signed else colours()

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
        high = plain(float(f"{self.high:.3g}"))
        if self.signed:
            return f"{self.kind} scale of magnitude, −{high} to {high}" + (
                f", neutral below {plain(float(f'{self.low:.3g}'))}" if self.kind == "log" else ""
            )
        if self.kind == "log":
            return f"log scale, {plain(float(f'{self.low:.3g}'))} or less to {high}"
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


def draw(panels: Sequence[Sequence[Panel]], scale: Scale, prompt: str) -> Figure:
    """A grid of heatmaps of one prompt on one colour scale, a column for each run, with a legend of the scale.

    Where all runs read the prompt as the same tokens, these are written once to a row and once to a column.
    """
    with style(**{"axes.grid": False}):
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
                axes.set_title(f"{short(panel.title, 50)}, {panel.place}\n{panel.caption}", loc="left")
        figure.text(
            0.5,
            1 - 0.2 / height,
            f"Prompt: {short(' '.join(prompt.split()), int(14 * width))}",
            ha="center",
            va="center",
            fontsize=8,
        )
        worst = residual(max(panel.residual for line in panels for panel in line))
        _legend(figure, figure.add_axes((0.2, 0.78 / height, 0.6, 0.12 / height)), scale, worst)
        return figure


def _heatmap(axes: Axes, panel: Panel, scale: Scale, inches: float, *, rows: bool, columns: bool) -> None:
    """One panel; `rows` and `columns` say whether tokens are written to them."""
    axes.imshow(scale.colours(panel.matrix), interpolation="nearest")
    every = max(1, len(panel.labels) // 64)
    places = range(0, len(panel.labels), every)
    labels = [short(_visible(panel.labels[place]), 10) for place in places]
    size = max(2.5, min(7.0, 0.92 * 72 * inches / len(panel.labels)))
    axes.set_xticks(places if columns else [], labels if columns else [], rotation=90, fontsize=size)
    axes.set_yticks(places if rows else [], labels if rows else [], fontsize=size)
    bare(axes)


def _legend(figure: Figure, axes: Axes, scale: Scale, worst: str) -> None:
    bar = figure.colorbar(
        ScalarMappable(scale.norm, scale.colormap),
        cax=axes,
        orientation="horizontal",
        ticks=scale.ticks,
        format=lambda value, _: plain(value),
    )
    bar.outline.set_visible(False)
    bar.set_label(
        f"attention weight, {scale.words}, the same for all panels (rows: queries, columns: keys); residuals at most "
        f"{worst}"
    )
    entries = [
        Patch(facecolor=to_rgba(ZERO), label="exactly 0"),
        Patch(facecolor="none", edgecolor=INK, linewidth=0.4, label="blank: not visible to the query"),
    ]
    figure.legend(handles=entries, loc="lower center", ncols=2)


def _side(tokens: int) -> float:
    """Inches of a heatmap such that labels of this many tokens can be read."""
    return min(8.0, max(2.6, tokens * 0.075))


def _visible(piece: str) -> str:
    """A token for an axis: white space shown, never an empty string."""
    shown = piece.replace("\n", "↵").replace("\t", "⇥")
    return shown.replace("▁", "·").replace(" ", "·") or "∅"
