"""One self-contained HTML page that puts runs side by side, and the same data as JSON.

The page shows what the other analyses left in `<run>/eval/*.json` and what training left in `<run>/metrics.jsonl`.
Nothing is computed anew. A result of another checkpoint or model config than the run opens with counts as missing, and
so does one of other code, whose layout may be another. One that would now be measured otherwise (with other libraries,
text or dtype) is marked with a †.
The page loads nothing from anywhere: styles, script, curves and attention weights are inside.

The data file, next to the page:

    {
      "title": ...,
      "runs": [{"name": ..., "label": ..., "path": ..., "step": ..., "checkpoint": ..., "train_length": ...,
                "parameters": ..., "results": {<analysis>: <result file>}, "missing": {<analysis>: "<reason>"},
                "outdated": {<analysis>: "versions, dtype"},
                "metrics": [...], "config": {...}, "record": {...}}],
      "columns": [{"key": ..., "group": ..., "title": ..., "unit": ..., "better": ..., "source": ...,
                   "cells": [{"value": 1.4, "text": "1.4000", "missing": null, "outdated": null}]}],
      "means": {<column>: {<mechanism>: {"mean": ..., "low": ..., "high": ..., "seeds": [1, 2]}}},
      "paired": {<column>: [{"group": ..., "baseline": ..., "seeds": [1, 2], "differences": [...], "over": "seeds",
                             "units": 2, "interval": {"mean": ..., "low": ..., "high": ...}, "better": true}]},
      "findings": ["..."],
      "checks": [{"holds": true, "claim": ..., "detail": ...}],
      "environment": {...}                                      what made the report
    }
"""

import os
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from common import files
from eval.options import option
from eval.report.collection import collect, environment
from eval.report.contents import Report
from eval.subjects.base import Subject
from models import ModelError


@dataclass(frozen=True)
class Settings:
    """Options of the report."""

    out: str | None = option(None, "HTML file to write", unset="report.html beside the runs")
    title: str = option("Attention mechanisms side by side", "of the page")
    export: str | None = option(
        None, "folder for every figure as SVG, PNG, PDF and CSV, every table as CSV and LaTeX", unset="none"
    )


def before(settings: Settings) -> None:
    """Refuse what can be refused before a model is opened.

    Raises:
        ModelError: matplotlib, jinja2 or scipy is not installed, or the file is not to be an HTML file.
    """
    missing = [package for package in ("matplotlib", "jinja2", "scipy") if find_spec(package) is None]
    if missing:
        raise ModelError(f"the report needs the packages {', '.join(missing)}: pip install -e '.[eval]'")
    if settings.out is not None and Path(settings.out).suffix != ".html":
        raise ModelError(f"--out of a report must end in .html, got {settings.out}")


def write(subjects: Sequence[Subject], settings: Settings) -> dict[str, object]:
    """Write the report of some runs; what it returns is a row to print.

    Raises:
        ModelError: the files cannot be written, or what a run has left cannot be read.
    """
    before(settings)
    # Imported late: matplotlib and jinja2 are optional, and only the page needs them.
    from eval.report import export
    from eval.report.page import render

    # Beside the runs, whatever their order.
    beside = os.path.commonpath([subject.path.parent for subject in subjects])
    out = Path(beside) / "report.html" if settings.out is None else Path(settings.out)
    report = Report(settings.title, collect(subjects), environment())
    page = render(report)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        files.write(out, page)
        files.write(out.with_suffix(".json"), report.json())
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror}") from error
    print(f"\n{report.text()}\n")
    written = {"report": str(out), "runs": len(subjects), "megabytes": round(len(page.encode()) / 1e6, 2)}
    if settings.export is None:
        return written
    exported = export.write(report.groups, report.numbers, report.headline, Path(settings.export))
    return {**written, "exported": f"{len(exported)} files to {settings.export}"}
