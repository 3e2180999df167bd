"""Curves of runs as curves of variants: the mean over seeds, with one standard deviation as a band."""

from collections.abc import Mapping, Sequence
from dataclasses import replace
from statistics import fmean, stdev

from eval.display import Curve, Figure, Grid, finite


def averaged(figure: Figure, variants: Mapping[int, tuple[int, str]]) -> Figure:
    """A figure of runs with one curve for each variant, over the points that all of its seeds have.

    Args:
        figure: of runs, which may have several curves each.
        variants: place and name of the variant of each run, by the run's place.
    """
    grouped: dict[tuple[int, int], list[Curve]] = {}
    seen: dict[int, int] = {}
    for curve in figure.curves:
        # The k-th curve of one run is the same line as the k-th of another.
        index = seen[curve.run] = seen.get(curve.run, -1) + 1
        grouped.setdefault((variants[curve.run][0], index), []).append(curve)
    names = dict(variants.values())
    return replace(
        figure, curves=[_mean(names[place], place, curves) for (place, _), curves in grouped.items()]
    )


def averaged_grid(grid: Grid, variants: Mapping[str, str]) -> Grid:
    """A grid of runs with the mean over the seeds of each variant; a head that some seed has no number of has none.

    Args:
        grid: of runs.
        variants: name of each run's variant, by the run's name.
    """
    grouped: dict[str, list[Sequence[Sequence[float | None]]]] = {}
    for run, layers in grid.grids:
        grouped.setdefault(variants[run], []).append(layers)
    means = {
        name: [_moments(heads)[0] for heads in zip(*some, strict=True)] for name, some in grouped.items()
    }
    return replace(grid, grids=list(means.items()))


def _mean(name: str, place: int, curves: Sequence[Curve]) -> Curve:
    label = None if curves[0].label is None else name
    if len(curves) == 1:
        return replace(curves[0], label=label, run=place)
    shared = set.intersection(*(set(curve.x) for curve in curves))
    x = sorted(shared)
    values = [_at(x, curve.x, curve.y) for curve in curves]
    middle, spread = _moments(values)
    band = None
    if all(curve.band for curve in curves):
        # What the band of a run says is kept.
        edges = [[_at(x, curve.x, curve.band[side]) for curve in curves if curve.band] for side in (0, 1)]
        band = _moments(edges[0])[0], _moments(edges[1])[0]
    elif not curves[0].faint and not curves[0].dashed:
        band = _moved(middle, spread, -1), _moved(middle, spread, 1)
    return replace(curves[0], label=label, run=place, x=x, y=middle, band=band)


def _at(x: Sequence[float], known: Sequence[float], y: Sequence[float | None]) -> list[float | None]:
    points = dict(zip(known, y, strict=True))
    return [finite(points[place]) for place in x]


def _moments(curves: Sequence[Sequence[float | None]]) -> tuple[list[float | None], list[float]]:
    """Mean and standard deviation of some curves, point by point; None where one of them has no value."""
    points = [[value for value in some if value is not None] for some in zip(*curves, strict=True)]
    whole = [len(some) == len(curves) for some in points]
    return (
        [fmean(some) if known else None for some, known in zip(points, whole, strict=True)],
        [stdev(some) if known and len(some) > 1 else 0.0 for some, known in zip(points, whole, strict=True)],
    )


def _moved(middle: Sequence[float | None], spread: Sequence[float], side: int) -> list[float | None]:
    return [
        None if value is None else value + side * width for value, width in zip(middle, spread, strict=True)
    ]
