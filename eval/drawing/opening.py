"""The head on which the viewer opens: the one worth looking at first."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from eval.drawing.maps import Maps
from eval.heatmap_cells import unpack


@dataclass(frozen=True)
class Opening:
    """The head to begin with, why, and the two runs of the first difference."""

    layer: int
    head: int
    why: str
    a: int
    b: int


def choose(runs: Sequence[Maps]) -> Opening:
    """The head that differs most between the runs: half of Σ |w − mean of the runs| over a row, the mean over rows and
    runs. Of a single run, or of runs that read the prompt as other tokens, that of the first run with the largest sink;
    where no sink is known, the first head.
    """
    tokens = {(tuple(run.pieces), run.pool) for run in runs}
    if len(runs) > 1 and len(tokens) == 1 and (shared := _shared(runs)):
        apart = {place: _apart(_matrices(runs, *place)) for place in shared}
        layer, head = max(shared, key=lambda place: apart[place])
        matrices = _matrices(runs, layer, head)
        pairs = [(a, b) for a in range(len(runs)) for b in range(a + 1, len(runs))]
        a, b = max(pairs, key=lambda pair: float(np.abs(matrices[pair[0]] - matrices[pair[1]]).sum()))
        return Opening(layer, head, "where the runs differ most", a, b)
    found = [(head["sink"], place) for place, head in _heads(runs[0]).items() if head.get("sink") is not None]
    second = min(1, len(runs) - 1)
    if not found:
        return Opening(*min(_heads(runs[0]), default=(0, 0)), "", 0, second)
    _, place = max(found, key=lambda entry: (entry[0], [-number for number in entry[1]]))
    return Opening(*place, f"the largest sink{f' of {runs[0].name}' if len(runs) > 1 else ''}", 0, second)


def _heads(run: Maps) -> dict[tuple[int, int], dict[str, Any]]:
    return {
        (number, head["head"]): head for number, layer in enumerate(run.layers) for head in layer["heads"]
    }


def _shared(runs: Sequence[Maps]) -> list[tuple[int, int]]:
    """The heads that every run has, by layer."""
    return sorted(set.intersection(*(set(_heads(run)) for run in runs)))


def _matrices(runs: Sequence[Maps], layer: int, head: int) -> np.ndarray:
    """[runs, cells, cells]; a key that a query cannot see weighs nothing."""
    return np.stack([np.nan_to_num(unpack(_heads(run)[layer, head])) for run in runs])


def _apart(matrices: np.ndarray) -> float:
    return float(np.abs(matrices - matrices.mean(0)).sum(-1).mean() / 2)
