"""The attention viewer as HTML: every head of every run, with nothing to load from anywhere.

`write` makes a page of its own, `section` what the report includes. What the reader does with it is in
templates/viewer.js; the weights are in the page as `eval/heatmap_cells.py` packs them.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined

from eval.analyses import heatmaps
from eval.drawing import figures
from models import ModelError


def write(path: Path, records: Sequence[Mapping[str, Any]], **start: Any) -> int:
    """Write the viewer of some result files of `heatmaps` as a page. Returns its bytes.

    Args:
        path: of the page.
        records: result files of the same prompt.
        start: as for `section`.

    Raises:
        ModelError: it cannot be written.
    """
    names = [record["subject"]["name"] for record in records]
    viewer = section(list(enumerate(zip(names, records, strict=True))), tracked=True, **start)
    text = render(
        "viewer.html",
        title=f"Attention of {names[0] if len(names) == 1 else f'{len(names)} runs'}",
        prompt=records[0]["results"]["prompt"],
        size=f"{len(json.dumps(viewer)) / 1e6:.2f}",
        viewer=viewer,
    )
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot write {path}: {error.strerror}") from error
    return len(text.encode())


def section(
    runs: Sequence[tuple[int, tuple[str, Mapping[str, Any]]]],
    *,
    layer: int = 0,
    head: int = 0,
    scale: str = "log",
    tracked: bool = False,
) -> dict[str, Any]:
    """What templates/viewer_section.html needs.

    Args:
        runs: place (which decides the colour), name and result file of each run.
        layer, head: to begin with.
        scale: to begin with, "log" or "linear".
        tracked: whether the address of the page follows what is shown.
    """
    files = [record for _, (_, record) in runs]
    panels = [panel for record in files for level in heatmaps.every(record) for panel in level]
    pools = sorted({record["results"]["pool"] for record in files} - {1})
    return {
        "runs": [
            {
                "name": name,
                "label": record["subject"]["label"],
                "colour": figures.colour(place),
                **{key: record["results"][key] for key in ("pieces", "pool", "layers")},
            }
            for place, (name, record) in runs
        ],
        "palettes": figures.palettes(),
        "decades": figures.DECADES,
        "depth": max(len(record["results"]["layers"]) for record in files),
        "heads": max(len(level["heads"]) for record in files for level in record["results"]["layers"]),
        "count": len(panels),
        "worst": heatmaps.short(max(panel.residual for panel in panels)),
        "limit": f"{max(record['protocol']['residual_limit'] for record in files):g}",
        "pooling": " ".join(
            f"The prompt is long: a cell is the weight of largest magnitude of {pool} queries and {pool} keys."
            for pool in pools
        ),
        "layer": layer,
        "head": head,
        "scale": scale,
        "a": 0,
        "b": min(1, len(runs) - 1),
        "tracked": tracked,
    }


def render(template: str, **values: Any) -> str:
    """A template of this package, filled; every text is escaped."""
    templates = Environment(
        loader=PackageLoader("eval.drawing", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return templates.get_template(template).render(**values)
