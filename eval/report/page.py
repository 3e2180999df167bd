"""The report as one HTML page: tables, figures and heatmaps put into the template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eval import catalogue
from eval.drawing import pages
from eval.report import comparison, pairs
from eval.report.collection import Measured
from eval.report.columns import Column
from eval.report.comparison import Cell
from eval.report.contents import Report
from eval.report.drawings import sections
from eval.report.findings import checks, findings
from eval.report.view import view
from storage.machine import words


def render(report: Report) -> str:
    """The page, self-contained; every text from a run is escaped."""
    runs = report.runs
    return pages.render(
        "report.html",
        title=report.title,
        environment=report.environment,
        runs=runs,
        view=view(report.groups, report.numbers, headline=report.headline),
        findings=findings(runs),
        checks=checks(runs),
        tables=_tables(runs),
        legend=comparison.LEGEND,
        words=pairs.WORDS,
        sections=sections(report.groups),
        protocols=_protocols(runs),
        provenance=_provenance(runs),
    )


def _tables(runs: Sequence[Measured]) -> dict[str, list[tuple[Column, list[Cell], list[str]]]]:
    """The tables of the runs: for each column that some run has its cells, and what differs between the protocols."""
    tables: dict[str, list[tuple[Column, list[Cell], list[str]]]] = {}
    for column in comparison.columns(runs):
        cells = comparison.cells(column, runs)
        if any(cell.value is not None for cell in cells):
            differing = comparison.disagreements(column, runs)
            tables.setdefault(column.group, []).append((column, cells, differing))
    return tables


def _protocols(runs: Sequence[Measured]) -> list[dict[str, Any]]:
    """The words of each analysis on what it measures, and the protocol under which each run was measured."""
    return [
        {
            "name": name,
            "summary": catalogue.summary(name),
            "words": _explanation(catalogue.docstring(name)),
            "runs": {run.name: _pairs(run.results[name]["protocol"]) for run in runs if name in run.results},
            "missing": _by_reason(runs, name),
        }
        for name in catalogue.every()
    ]


def _by_reason(runs: Sequence[Measured], name: str) -> dict[str, list[str]]:
    """The runs without a result of an analysis, by the reason."""
    found: dict[str, list[str]] = {}
    for run in runs:
        if name in run.missing:
            found.setdefault(run.missing[name], []).append(run.name)
    return found


def _explanation(docstring: str) -> list[str]:
    """The paragraphs of a module's docstring between its first line and the layout of its results."""
    return docstring.partition("\nResults")[0].strip().split("\n\n")[1:]


def _provenance(runs: Sequence[Measured]) -> dict[str, list[Any]]:
    """The origin of each run, a row for each fact; None where it was not recorded."""
    records = [run.record or {} for run in runs]
    versions = dict.fromkeys(name for record in records for name in record.get("versions", {}))
    return {
        "path": [run.path for run in runs],
        "step": [run.step for run in runs],
        "seed": [(run.config or {}).get("seed") for run in runs],
        "training length": [run.train_length for run in runs],
        "command": [" ".join(record["command"]) if "command" in record else None for record in records],
        "machine": [_words(record.get("machine")) for record in records],
        **{name: [record.get("versions", {}).get(name) for record in records] for name in versions},
        "sha256 of the weights": [run.checkpoint for run in runs],
        "data fingerprint": [record.get("data") for record in records],
        "tokenizer fingerprint": [record.get("tokenizer") for record in records],
    }


def _words(value: Any) -> str | None:
    if isinstance(value, Mapping):
        return words(value)
    return None if value is None else str(value)


def _pairs(values: Mapping[str, Any], prefix: str = "") -> list[tuple[str, str]]:
    """A nested protocol as dotted names and short texts."""
    found = []
    for key, value in values.items():
        if isinstance(value, Mapping):
            found += _pairs(value, f"{prefix}{key}.")
        else:
            text = value if isinstance(value, str) else json.dumps(value)
            found.append((prefix + key, text if len(text) <= 120 else f"{text[:119]}…"))
    return found
