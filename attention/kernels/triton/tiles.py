"""Tile sizes per pass, architecture, head dimension and element size."""

from dataclasses import dataclass

INTERPRETER = "interpreter"


@dataclass(frozen=True)
class Tiles:
    """Rows and keys of a tile, warps of a program, stages of its pipeline."""

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2


def tiles_for(architecture: str, sweep: str, width: int, element_size: int) -> Tiles:
    """The tiles of a sweep for heads padded to `width` channels."""
    if architecture == INTERPRETER:
        return Tiles(32, 16)
    return Tiles(64, 32, 4, 2)
