"""Progress bars and tables, which a command prints while it works."""

import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from tqdm import tqdm

SILENCE = "TQDM_DISABLE"
"""tqdm's own variable of the environment that turns its bars off."""


def progress(steps: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """A progress bar on a terminal that wants one, silence elsewhere."""
    # The harness silences sys.stderr while lm-eval runs; the bar goes to the terminal all the same.
    off = True if os.environ.get(SILENCE) else None
    return tqdm(steps, desc=what, total=total, leave=False, disable=off, file=sys.__stderr__)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of named cells as aligned text; a cell that a row lacks is a dash."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    texts = [isinstance(rows[0].get(name), str) for name in names]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in lines
    )


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
