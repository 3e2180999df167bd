"""The report as one HTML page: tables, figures and heatmaps put into the template."""

import json
from collections.abc import Mapping, Sequence
from typing import Any

from eval import analysis
from eval.drawing import figures, viewer
from eval.report import comparison, drawings, pairs
from eval.report.command import Report
from eval.report.comparison import Cell, Column, Measured
from eval.report.findings import checks, findings


def render(report: Report) -> str:
    """The page, self-contained; every text from a run is escaped."""
    runs = report.runs
    return viewer.render(
        "report.html",
        title=report.title,
        environment=report.environment,
        runs=runs,
        colours=[figures.colour(place) for place in range(len(runs))],
        findings=findings(runs),
        checks=checks(runs),
        tables=_tables(runs),
        pairs=pairs.table(runs),
        words=pairs.WORDS,
        legend=comparison.LEGEND,
        sections={
            "Training": drawings.training(runs),
            "Attention": drawings.attention(runs),
            "Quantisation": drawings.quantisation(runs),
            **{name.capitalize(): found for name, found in drawings.exhibited(runs).items()},
        },
        prompts=list(
            dict.fromkeys(run.get("heatmaps", "prompt") for run in runs if "heatmaps" in run.results)
        ),
        viewer=_viewer(runs),
        protocols=_protocols(runs),
        provenance=_provenance(runs),
    )


def _tables(runs: Sequence[Measured]) -> dict[str, list[tuple[Column, list[Cell], list[str]]]]:
    """The tables of the comparison: for each column its cells, and what differs between the protocols."""
    tables: dict[str, list[tuple[Column, list[Cell], list[str]]]] = {}
    for column in comparison.columns(runs):
        differing = comparison.disagreements(column, runs)
        tables.setdefault(column.group, []).append((column, comparison.cells(column, runs), differing))
    return tables


def _viewer(runs: Sequence[Measured]) -> dict[str, Any] | None:
    """The heatmap section; None where no run has heatmaps."""
    found = [
        (place, (run.name, run.results["heatmaps"]))
        for place, run in enumerate(runs)
        # An older layout has no cells; such a run counts as one without heatmaps.
        if run.get("heatmaps", "pool")
    ]
    return viewer.section(found) if found else None


def _protocols(runs: Sequence[Measured]) -> list[dict[str, Any]]:
    """What each analysis measures, in its own words, and the protocol under which each run was measured."""
    return [
        {
            "name": name,
            "summary": kind.summary,
            "words": _explanation(kind.module.__doc__ or ""),
            "runs": {run.name: _pairs(run.results[name]["protocol"]) for run in runs if name in run.results},
            "missing": {run.name: run.missing[name] for run in runs if name in run.missing},
        }
        for name, kind in analysis.analyses().items()
        if hasattr(kind.module, "run")
    ]


def _explanation(docstring: str) -> list[str]:
    """The paragraphs of a module's docstring between its first line and the layout of its results."""
    return docstring.partition("\nResults")[0].strip().split("\n\n")[1:]


def _provenance(runs: Sequence[Measured]) -> dict[str, list[Any]]:
    """Where each run comes from, a row for each fact; None where it was not recorded."""
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
        return ", ".join(f"{key} {entry}" for key, entry in value.items())
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
