"""One head's attention on a prompt, as a figure shows it."""

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from eval.heatmap_cells import unpack


@dataclass(frozen=True)
class Panel:
    """One head's attention on the prompt."""

    run: str
    mechanism: str
    layer: int
    head: int
    residual: float
    zeros: float
    sink: float | None
    entropy: float | None
    pieces: list[str]
    pool: int
    packed: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The run, and its mechanism where the name does not say it."""
        return self.run if self.run == self.mechanism else f"{self.run} ({self.mechanism})"

    @property
    def place(self) -> str:
        """The place of the head in the model."""
        return f"layer {self.layer}, head {self.head}"

    @property
    def caption(self) -> str:
        """The words on the panel: the shape of its rows, zeros, and pooling."""
        shape = {"sink": self.sink, "entropy": self.entropy}
        known = [f"{name} {value:.2f}" for name, value in shape.items() if value is not None]
        pooled = [f"largest of {self.pool} × {self.pool}"] if self.pool > 1 else []
        return " · ".join([*known, f"zeros {self.zeros:.0%}", *pooled])

    @cached_property
    def matrix(self) -> np.ndarray:
        """[cells, cells], nan where invisible."""
        return unpack(self.packed)

    @property
    def labels(self) -> list[str]:
        """The first token of each row and column of cells."""
        return self.pieces[:: self.pool]


def short(residual: float) -> str:
    """A residual in two digits; 0 means equal bit for bit."""
    return f"{residual:.1e}" if residual else "0"
