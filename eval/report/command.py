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
                   "cells": [{"value": 1.4, "text": "1.4000", "best": true, "missing": null, "outdated": null}]}],
      "paired": {<column>: [{"group": ..., "baseline": ..., "seeds": [1, 2], "differences": [...], "over": "seeds",
                             "units": 2, "interval": {"mean": ..., "low": ..., "high": ...}, "better": true}]},
      "findings": ["..."],
      "checks": [{"holds": true, "claim": ..., "detail": ...}],
      "environment": {...}                                      what made the report
    }
"""

import importlib.metadata
import json
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from importlib.util import find_spec
from pathlib import Path
from textwrap import fill
from typing import Any

from common.errors import InputError
from common.shapes import read_json, read_yaml
from eval import analysis, provenance
from eval.report import comparison, pairs
from eval.report.comparison import Measured
from eval.report.findings import checks, findings
from eval.subjects.subject import Subject
from models import ModelError
from storage import log
from storage.machine import machine

PACKAGES = ("torch", "lm_eval", "transformers", "matplotlib", "jinja2")


@dataclass(frozen=True)
class Settings:
    """Where the report goes, and what it is called."""

    out: str | None = field(
        default=None, metadata={"help": "HTML file; default: report.html next to the first run"}
    )
    title: str = field(default="Attention mechanisms side by side", metadata={"help": "of the page"})


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


def run_all(subjects: Sequence[Subject], settings: Settings) -> dict[str, object]:
    """Write the report of some runs.

    Raises:
        ModelError: the files cannot be written, or what a run has left cannot be read.
    """
    before(settings)
    # Imported late: matplotlib and jinja2 are optional, and only the page needs them.
    from eval.report.page import render

    out = subjects[0].path.parent / "report.html" if settings.out is None else Path(settings.out)
    data = collect(subjects, settings.title)
    page = render(data)
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        out.write_text(page, encoding="utf-8")
        out.with_suffix(".json").write_text(data.json(), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot write {out}: {error.strerror}") from error
    print(f"\n{data.text()}\n")
    return {"report": str(out), "runs": len(subjects), "megabytes": round(len(page.encode()) / 1e6, 2)}


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Attributes:
        title: of the page.
        runs: in the order of the page, which also decides their colours.
        environment: the machine and versions that made the report.
    """

    title: str
    runs: list[Measured]
    environment: dict[str, str]

    def json(self) -> str:
        """The data file."""
        columns = [
            {name: getattr(column, name) for name in ("key", "group", "title", "unit", "better", "source")}
            | {"cells": [asdict(cell) for cell in comparison.cells(column, self.runs)]}
            for column in comparison.columns(self.runs)
        ]
        data = {
            "title": self.title,
            "runs": [asdict(run) for run in self.runs],
            "columns": columns,
            "paired": {
                column.key: [asdict(paired) for paired in pairs.compare(column, self.runs)]
                for column in pairs.columns(self.runs)
            },
            "findings": findings(self.runs),
            "checks": [asdict(check) for check in checks(self.runs)],
            "environment": self.environment,
        }
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """The comparison as plain text, a table per topic; the best numbers are starred."""
        columns = comparison.columns(self.runs)
        tables = []
        for group in dict.fromkeys(column.group for column in columns):
            rows: list[dict[str, object]] = [{"run": run.name} for run in self.runs]
            for column in (column for column in columns if column.group == group):
                for row, cell in zip(rows, comparison.cells(column, self.runs), strict=True):
                    row[column.heading] = cell.text + ("*" if cell.best else "")
            tables.append(f"{group}\n{analysis.table(rows)}")
        legend = fill(f"{comparison.LEGEND} Marked: *.", 110)
        gaps = [fill(line, 110) for run in self.runs for line in _gaps(run)]
        return "\n\n".join([*tables, "\n".join([legend, *gaps]), pairs.text(self.runs)])


def collect(subjects: Sequence[Subject], title: str) -> Report:
    """Everything the runs have left on disk; runs of one name are told apart by their path."""
    names = [subject.name for subject in subjects]
    runs = [
        measured(subject, subject.name if names.count(subject.name) == 1 else str(subject.path))
        for subject in subjects
    ]
    return Report(title, runs, environment())


def measured(subject: Subject, name: str) -> Measured:
    """What one run has left on disk.

    Args:
        subject: the run.
        name: to call it by.

    Raises:
        ModelError: its config or record cannot be read.
    """
    results, missing, outdated = {}, {}, {}
    protocol = _protocol(subject)
    for kind, known in analysis.analyses().items():
        if not hasattr(known.module, "run"):
            continue
        path = subject.results / f"{kind}.json"
        result = analysis.read(path)
        if result is None:
            missing[kind] = "the result file is damaged or was edited" if path.exists() else "not measured"
            continue
        now = protocol | provenance.protocol(known.module)
        if reason := _foreign(result, subject, now["code"]):
            missing[kind] = reason
        else:
            results[kind] = result
            if changed := [name for name in now if result["protocol"].get(name) != now[name]]:
                outdated[kind] = ", ".join(changed)
    logged = log.read(subject.path)
    if subject.step is not None:
        logged = [record for record in logged if record["step"] <= subject.step]
    if not logged:
        missing["training"] = "not logged"
    return Measured(
        name=name,
        label=subject.label,
        path=str(subject.path),
        step=subject.step,
        checkpoint=subject.checkpoint,
        train_length=subject.train_length,
        parameters=sum(parameter.numel() for parameter in subject.network.parameters()),
        results=dict(sorted(results.items())),
        missing=dict(sorted(missing.items())),
        metrics=logged,
        config=_given(subject.path / "config.yaml", read_yaml),
        record=_given(subject.path / "run.json", read_json),
        outdated=dict(sorted(outdated.items())),
    )


def environment() -> dict[str, str]:
    """The machine and versions that made the report."""
    found = machine() | {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _gaps(run: Measured) -> list[str]:
    """What is missing or marked, a line for each reason."""
    named: dict[str, list[str]] = {}
    for name, reason in run.missing.items():
        named.setdefault(reason, []).append(name)
    for name, what in run.outdated.items():
        named.setdefault(f"† not as it would be measured now ({what})", []).append(name)
    return [f"{run.name}: {reason}: {', '.join(names)}." for reason, names in named.items()]


def _foreign(result: Mapping[str, Any], subject: Subject, code: str) -> str | None:
    """Why a result is none of this model by this code; None where it is."""
    measured = result["subject"]
    if measured.get("checkpoint") != subject.checkpoint:
        return f"measured on another checkpoint (step {measured.get('step')})"
    if result["protocol"].get("code") != code:
        return "measured by other code"
    if measured.get("architecture") != subject.architecture:
        return "measured with another model config"
    return None


def _protocol(subject: Subject) -> dict[str, Any]:
    """What the subject would now decide of a protocol, the device apart; nothing where its text cannot be had here."""
    try:
        return {name: entry for name, entry in subject.protocol().items() if name != "device"}
    except InputError:
        return {}


def _given(path: Path, read: Callable[[Path, type], Any]) -> dict[str, Any] | None:
    """A file of a run, None if there is none."""
    return read(path, dict) if path.is_file() else None
