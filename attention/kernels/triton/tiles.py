"""Tile sizes per sweep, architecture, head dimension and element size.

Chosen by `python -m benchmarks.gpu_static --choose`: the first candidates that compile without spills, for float32 on
sm_80, whose tiles sm_90 and sm_100 share but for a few that spilled there. Nothing here was timed.
"""

from dataclasses import dataclass

INTERPRETER = "interpreter"
WIDTHS = (32, 64, 128, 256)


@dataclass(frozen=True)
class Tiles:
    """Rows and keys of a tile, warps of a program, stages of its pipeline."""

    rows: int
    keys: int
    warps: int = 4
    stages: int = 2


def family(architecture: str) -> str | None:
    """The architecture of the table whose tiles serve another one; None where there is none.

    Consumer cards of any generation have the matrix instructions and the shared memory of sm_80.
    """
    if architecture in TABLE:
        return architecture
    if not architecture.startswith("sm_"):
        return None
    generation = int(architecture.removeprefix("sm_"))
    if 100 <= generation < 120:
        return "sm_100"
    return "sm_80" if generation >= 80 else None


def tiles_for(architecture: str, sweep: str, width: int, element_size: int) -> Tiles:
    """The tiles of a sweep for heads padded to `width` channels."""
    if architecture == INTERPRETER:
        return Tiles(32, 16)
    chosen = TABLE[family(architecture) or ""][element_size][sweep]
    return Tiles(*chosen[next(place for place, limit in enumerate(WIDTHS) if width <= limit)])


TABLE: dict[str, dict[int, dict[str, tuple[tuple[int, int, int, int], ...]]]] = {
    "sm_80": {
        2: {
            "mix": ((128, 64, 8, 3), (128, 64, 8, 3), (64, 32, 8, 2), (32, 32, 4, 2)),
            "decode": ((16, 128, 4, 3), (16, 64, 4, 3), (16, 64, 4, 3), (16, 64, 4, 2)),
            "sum_rows": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)),
            "grad_queries": ((128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 8, 2), (32, 32, 4, 2)),
            "grad_keys": ((64, 64, 4, 2), (64, 32, 4, 2), (64, 64, 8, 2), (32, 32, 8, 1)),
        },
        4: {
            "mix": ((128, 64, 8, 3), (32, 32, 4, 2), (16, 16, 4, 1), (16, 16, 4, 1)),
            "decode": ((16, 64, 4, 3), (16, 32, 4, 2), (16, 16, 4, 1), (16, 32, 4, 2)),
            "sum_rows": ((64, 32, 4, 2), (64, 32, 4, 2), (16, 64, 4, 2), (16, 16, 4, 1)),
            "grad_queries": ((64, 32, 8, 2), (32, 32, 4, 2), (16, 32, 4, 1), (16, 32, 4, 1)),
            "grad_keys": ((32, 16, 4, 1), (32, 32, 8, 1), (16, 16, 4, 1), (16, 16, 8, 1)),
        },
    },
    "sm_90": {
        2: {
            "mix": ((128, 64, 8, 3), (128, 64, 8, 3), (128, 64, 8, 3), (64, 32, 8, 2)),
            "decode": ((16, 128, 4, 3), (16, 128, 4, 3), (16, 64, 4, 3), (16, 64, 4, 3)),
            "sum_rows": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 4, 2)),
            "grad_queries": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 32, 8, 2)),
            "grad_keys": ((64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 8, 2), (32, 32, 8, 1)),
        },
        4: {
            "mix": ((128, 64, 8, 3), (32, 32, 4, 2), (16, 16, 4, 1), (16, 16, 8, 1)),
            "decode": ((16, 64, 4, 3), (16, 32, 4, 2), (16, 16, 4, 1), (16, 16, 8, 1)),
            "sum_rows": ((64, 32, 4, 2), (64, 32, 4, 2), (16, 64, 4, 2), (16, 16, 4, 1)),
            "grad_queries": ((64, 32, 8, 2), (32, 32, 4, 2), (16, 32, 4, 1), (16, 32, 4, 1)),
            "grad_keys": ((32, 16, 4, 1), (32, 32, 8, 1), (16, 16, 4, 1), (16, 16, 8, 1)),
        },
    },
    "sm_100": {
        2: {
            "mix": ((128, 64, 8, 3), (128, 64, 8, 3), (128, 64, 8, 3), (32, 32, 8, 1)),
            "decode": ((16, 128, 4, 3), (16, 128, 4, 3), (16, 128, 4, 3), (16, 64, 4, 3)),
            "sum_rows": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 4, 2)),
            "grad_queries": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 64, 8, 2)),
            "grad_keys": ((64, 64, 8, 2), (64, 32, 4, 2), (64, 32, 8, 2), (32, 64, 8, 2)),
        },
        4: {
            "mix": ((128, 64, 8, 3), (32, 32, 4, 2), (16, 16, 4, 1), (16, 16, 8, 1)),
            "decode": ((16, 64, 4, 3), (16, 32, 4, 2), (16, 16, 4, 1), (16, 16, 8, 1)),
            "sum_rows": ((64, 32, 4, 2), (32, 32, 4, 2), (16, 16, 4, 1), (16, 16, 4, 1)),
            "grad_queries": ((64, 32, 8, 2), (32, 32, 4, 2), (16, 32, 4, 1), (16, 32, 4, 1)),
            "grad_keys": ((32, 16, 4, 1), (32, 32, 8, 1), (16, 16, 4, 1), (16, 16, 8, 1)),
        },
    },
    "gfx942": {
        2: {
            "mix": ((128, 64, 4, 3), (128, 64, 4, 3), (128, 64, 4, 3), (64, 32, 4, 2)),
            "decode": ((16, 128, 4, 3), (16, 128, 4, 3), (16, 64, 4, 3), (16, 64, 4, 2)),
            "sum_rows": ((128, 64, 8, 2), (128, 64, 8, 2), (128, 64, 8, 2), (64, 32, 4, 2)),
            "grad_queries": ((64, 64, 4, 2), (64, 64, 4, 2), (64, 32, 4, 2), (64, 32, 4, 2)),
            "grad_keys": ((64, 64, 4, 2), (64, 64, 4, 2), (64, 32, 4, 2), (16, 32, 4, 1)),
        },
        4: {
            "mix": ((128, 64, 4, 3), (64, 64, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2)),
            "decode": ((16, 64, 4, 3), (16, 64, 4, 2), (16, 32, 4, 2), (16, 32, 4, 1)),
            "sum_rows": ((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 16, 4, 1)),
            "grad_queries": ((128, 64, 8, 2), (64, 64, 4, 2), (64, 32, 4, 2), (32, 16, 4, 1)),
            "grad_keys": ((64, 32, 4, 2), (64, 32, 4, 2), (32, 32, 4, 2), (16, 32, 4, 1)),
        },
    },
}
"""Rows, keys, warps and stages for heads of at most 32, 64, 128 and 256 channels."""
