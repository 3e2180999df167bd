"""The heatmaps of one run, as the viewer takes them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Maps:
    """Every head of one run.

    Attributes:
        name, label: of the run.
        place: which decides its colour; seeds of one mechanism share theirs.
        pieces: the tokens of the prompt.
        pool: tokens to the side of a cell.
        layers: what templates/viewer.js reads: number, mechanism, window and heads of each, as JSON holds them.
        limit: the largest residual accepted.
    """

    name: str
    label: str
    place: int
    pieces: Sequence[str]
    pool: int
    layers: Sequence[Mapping[str, Any]]
    limit: float

    @property
    def residuals(self) -> list[float]:
        """The residual of every head."""
        return [head["residual"] for layer in self.layers for head in layer["heads"]]
