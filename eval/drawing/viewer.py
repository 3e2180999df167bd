"""The attention viewer as HTML: every head of every run, with nothing to load from anywhere.

`write` makes a page of its own, `report_section` what the report includes. What the reader does with it is in
templates/viewer.js; the weights are in the page as `eval/heatmap_cells.py` packs them.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from common import files
from eval.drawing import opening, style
from eval.drawing.maps import Maps
from eval.drawing.pages import render
from eval.drawing.panels import short
from models import ModelError


def write(path: Path, runs: Sequence[Maps], prompt: str, **start: Any) -> int:
    """Write the viewer of runs on one prompt as a page. Returns its bytes.

    Args:
        path: of the page.
        runs: their heatmaps.
        prompt: that they were given.
        start: as for `section`.

    Raises:
        ModelError: it cannot be written.
    """
    text = page(runs, prompt, tracked=True, **start)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        files.write(path, text)
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}") from error
    return len(text.encode())


def page(runs: Sequence[Maps], prompt: str, **start: Any) -> str:
    """The viewer of runs on one prompt as a page.

    Args:
        runs: their heatmaps.
        prompt: that they were given.
        start: as for `section`.
    """
    viewer = section(runs, **start)
    return render(
        "viewer.html",
        title=f"Attention of {runs[0].name if len(runs) == 1 else f'{len(runs)} runs'}",
        prompt=prompt,
        size=f"{len(json.dumps(viewer)) / 1e6:.2f}",
        viewer=viewer,
    )


def report_section(runs: Sequence[Maps], prompts: Sequence[str]) -> str:
    """The viewer as a section of a page, as HTML, behind the prompts that the runs were given."""
    return render("heatmaps_section.html", viewer=section(runs) if runs else None, prompts=prompts)


def section(
    runs: Sequence[Maps], *, place: tuple[int, int] | None = None, scale: str = "log", tracked: bool = False
) -> dict[str, Any]:
    """The values that templates/viewer_section.html needs.

    Args:
        runs: their heatmaps.
        place: layer and head to begin with; by default where `opening.choose` says.
        scale: of weights to begin with, "log" or "linear"; differences begin with "linear".
        tracked: whether the address of the page follows what is shown.
    """
    first = opening.choose(runs) if place is None else opening.Opening(*place, "", 0, min(1, len(runs) - 1))
    return {
        "runs": [
            {
                "name": run.name,
                "label": run.label,
                "colour": style.colour(run.place),
                # Of the seeds of one mechanism, which share a place, one is enough to begin with.
                "shown": run.place not in [other.place for other in runs[:number]],
                "pieces": run.pieces,
                "pool": run.pool,
                "layers": run.layers,
            }
            for number, run in enumerate(runs)
        ],
        "palettes": style.palettes(),
        "decades": style.DECADES,
        "depth": max(len(run.layers) for run in runs),
        "heads": max(len(level["heads"]) for run in runs for level in run.layers),
        "count": sum(len(run.residuals) for run in runs),
        "worst": short(max(residual for run in runs for residual in run.residuals)),
        "limit": f"{max(run.limit for run in runs):g}",
        "pooling": " ".join(
            f"The prompt is long: a cell is the weight of largest magnitude of {pool} queries and {pool} keys."
            for pool in sorted({run.pool for run in runs} - {1})
        ),
        "layer": first.layer,
        "head": first.head,
        "why": first.why,
        "scale": scale,
        "a": first.a,
        "b": first.b,
        "tracked": tracked,
    }
