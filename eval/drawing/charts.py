"""Curves as data that templates/charts.js draws: values at the pointer, logarithmic axes, variants on and off."""

from collections.abc import Iterable
from typing import Any

from eval.display import Curve, Figure, finite
from eval.drawing.style import COLOURS, colour

DASHES: tuple[list[int], ...] = ([], [7, 4], [2, 3], [8, 3, 2, 3])
"""Line styles, in turn with each round of colours, as those of the figures for a paper."""


def chart(figure: Figure, names: dict[int, str]) -> dict[str, Any]:
    """A figure as JSON holds it.

    Args:
        figure: whose curves belong to variants.
        names: of the variants, by place.
    """
    return {
        "title": figure.title,
        "x": figure.x,
        "y": figure.y,
        "logX": figure.log_x,
        "logY": figure.log_y,
        "zero": figure.from_zero,
        "ticks": None if figure.ticks is None else [[place, label] for place, label in figure.ticks],
        "mark": None if figure.mark is None else list(figure.mark),
        "curves": [_curve(curve, names[curve.run]) for curve in figure.curves],
    }


def _curve(curve: Curve, name: str) -> dict[str, Any]:
    low, high = curve.band or (None, None)
    return {
        "variant": name,
        "place": curve.run,
        "named": curve.label is not None,
        "colour": colour(curve.run),
        "dash": [4, 3] if curve.dashed else dash(curve.run),
        "faint": curve.faint,
        "x": list(curve.x),
        "y": _rounded(curve.y),
        "low": None if low is None else _rounded(low),
        "high": None if high is None else _rounded(high),
    }


def dash(place: int) -> list[int]:
    """The line style of the variant at this place."""
    return DASHES[place // len(COLOURS) % len(DASHES)]


def _rounded(values: Iterable[float | None]) -> list[float | None]:
    """Values in six digits, which no eye tells apart."""
    return [None if finite(value) is None else float(f"{value:.6g}") for value in values]
