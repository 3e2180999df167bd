"""The report as one HTML page: tables, figures and heatmaps put into the template."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval import analysis, comparison, drawings, figures, heatmaps
from eval.comparison import Cell, Column, Measured
from eval.findings import checks, findings
from eval.report import Report


def render(report: Report) -> str:
    """The page, self-contained; every text from a run is escaped."""
    templates = Environment(
        loader=PackageLoader("eval", "templates"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    runs = report.runs
    return templates.get_template("report.html").render(
        title=report.title,
        environment=report.environment,
        runs=runs,
        colours=[figures.colour(place) for place in range(len(runs))],
        findings=findings(runs),
        checks=checks(runs),
        tables=_tables(runs),
        training=drawings.training(runs),
        attention=drawings.attention(runs),
        quantisation=drawings.quantisation(runs),
        lengths=drawings.lengths(runs),
        maps=_maps(runs),
        protocols=_protocols(runs),
        provenance=_provenance(runs),
    )


@dataclass(frozen=True)
class Map:
    """A heatmap of the page: what it shows, its picture, and where the cells lie in it (left, top, width, height)."""

    run: int
    panel: heatmaps.Panel
    svg: Markup
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Maps:
    """The heatmap section.

    Attributes:
        prompts: what the runs were given; more than one if they do not compare.
        bar: the colour scale.
        mosaics: all heads of each run that has heatmaps, by place of the run: how many there are, and their picture.
        rows: heatmaps of one layer and head each, side by side.
        pieces: the tokens of the prompt, by place of the run.
        worst, limit: largest residual of all heads, and the largest that is accepted.
    """

    prompts: list[str]
    bar: Markup
    mosaics: dict[int, tuple[int, Markup]]
    rows: list[list[Map]]
    pieces: dict[int, list[str]]
    worst: str
    limit: str


def _tables(runs: Sequence[Measured]) -> dict[str, list[tuple[Column, list[Cell], list[str]]]]:
    """The tables of the comparison: for each column its cells, and what differs between the protocols."""
    tables: dict[str, list[tuple[Column, list[Cell], list[str]]]] = {}
    for column in comparison.columns(runs):
        differing = comparison.disagreements(column.source, runs)
        tables.setdefault(column.group, []).append((column, comparison.cells(column, runs), differing))
    return tables


def _maps(runs: Sequence[Measured]) -> Maps | None:
    """The heatmap section; None where no run has heatmaps."""
    records = {place: run.results["heatmaps"] for place, run in enumerate(runs) if "heatmaps" in run.results}
    if not records:
        return None
    every = {place: heatmaps.every(record) for place, record in records.items()}
    scale = figures.Scale.shared([layer for layers in every.values() for layer in layers], "log")
    panels = heatmaps.choose(list(records.values()))
    return Maps(
        prompts=list(dict.fromkeys(record["results"]["prompt"] for record in records.values())),
        bar=Markup(figures.svg(figures.colour_bar(scale), "map-scale", "colour scale")),
        mosaics={
            place: (
                len(layers[0]),
                Markup(figures.svg(figures.head_mosaic(layers, scale), f"mosaic-{place}", "all heads")),
            )
            for place, layers in every.items()
        },
        rows=[
            [_map(place, panel, scale) for place, panel in zip(records, row, strict=True)] for row in panels
        ],
        pieces={place: record["results"]["pieces"] for place, record in records.items()},
        worst=heatmaps.short(
            max(panel.residual for layers in every.values() for layer in layers for panel in layer)
        ),
        limit=f"{max(record['protocol']['residual_limit'] for record in records.values()):g}",
    )


def _map(place: int, panel: heatmaps.Panel, scale: figures.Scale) -> Map:
    figure, box = figures.heatmap(panel, scale)
    name = f"map-{place}-{panel.layer}-{panel.head}"
    return Map(place, panel, Markup(figures.svg(figure, name, f"attention of {panel.place}")), box)


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
        if name != "report"
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
