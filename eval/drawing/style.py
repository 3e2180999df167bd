"""The look of all figures, and their writing: colours, ink, and files or inline SVG.

A run keeps its colour and marker in every figure; the colours are Okabe and Ito's, told apart by colour-blind eyes too.
Text and axes are drawn in an ink that `svg` turns into the colour of the page, so that figures follow its dark mode.
"""

import io
import re
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import Colormap, ListedColormap, to_hex
from matplotlib.figure import Figure

from common import files
from models import ModelError

COLOURS = ("#0072b2", "#d55e00", "#009e73", "#cc79a7", "#e69f00", "#56b4e9", "#8c6d46", "#7f7f7f")
"""Colour of each run, in the order they are named; with more runs they repeat with another line style."""

MARKERS = "os^DvPX*"
INK = "#010203"
DECADES = 4
"""Orders of magnitude below its largest weight that the log colour scale of heatmaps spans."""

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


def palettes() -> dict[str, list[str]]:
    """Colours for pages that paint heatmaps themselves: evenly spaced stops from low to high.

    "sequential" for magnitudes; "light" and "dark" diverge from the middle, for pages of either kind.
    """
    maps = {
        "sequential": colours(),
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
    pictures = [stem.with_name(f"{stem.name}{suffix}") for suffix in (".png", ".svg")]
    try:
        stem.parent.mkdir(parents=True, exist_ok=True)
        for picture in pictures:
            drawn, kind = io.BytesIO(), picture.suffix[1:]
            with style(**{"svg.fonttype": "path"}):
                metadata = {"Date": None, "Creator": None} if kind == "svg" else {"Software": None}
                figure.savefig(
                    drawn, format=kind, dpi=150, transparent=False, facecolor="white", metadata=metadata
                )
            files.write(picture, drawn.getvalue())
    except OSError as error:
        raise ModelError(f"cannot write {stem}.png and .svg: {error.strerror}") from error
    return pictures


def svg(figure: Figure, name: str, label: str) -> str:
    """The figure as inline SVG: text stays text, ink takes the page's colour, ids begin with `name`.

    Args:
        figure: to draw.
        name: unique on the page.
        label: what it shows, for readers who cannot see it.
    """
    with style(**{"svg.hashsalt": name}):
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
def style(**changes: Any) -> Iterator[None]:
    """The look of the project, while open, with some changes."""
    style: Any = {**STYLE, "svg.hashsalt": "figure", **changes}
    with matplotlib.rc_context(style), warnings.catch_warnings():
        # Token pieces may hold any script; the browser has glyphs that matplotlib's font lacks.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        yield


def bare(axes: Axes) -> None:
    """Take ticks and frame from axes."""
    axes.tick_params(length=0, pad=2)
    for spine in axes.spines.values():
        spine.set_visible(False)


def colours() -> Colormap:
    """Viridis without its darkest sixth, which would vanish on a dark page."""
    return ListedColormap(matplotlib.colormaps["viridis"](np.linspace(0.16, 1, 256)))


def plain(value: float) -> str:
    """A number for a label."""
    return f"{value:,.0f}" if value >= 1 and value == round(value) else f"{value:g}"


def short(text: str, longest: int) -> str:
    """A text cut to so many letters."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
