"""Attention weights of every layer and head on one prompt, runs side by side, checked against the model's output.

The model runs the prompt once. For each layer the weights W are then recomputed from the query and key that the layer
saw, by the mechanism's formula (the dense kernel, whatever the model used), and multiplied with its values:
`residual = ||W v - o|| / ||o||`, with o the head's output in that forward pass, is stored, printed with each head, and
must stay below the limit of the dtype. What a heatmap shows is therefore what the model did.

Every run gets the same prompt, and heatmaps side by side share one colour scale. A weight that is exactly zero has a
colour of its own, a key that the query cannot see is blank; where weights are negative, the scale diverges from zero.
Prompts longer than `--cells` are pooled: a cell then shows the weight of largest magnitude of `pool` queries and `pool`
keys, and says so. Residuals and zeros are those of the weights before pooling. Weights are computed some rows at a time
and never held whole, so that memory grows with the length of the prompt and not with its square.

Written are a viewer, one HTML file that needs nothing else (every layer and head, differences, weights by token), and a
figure of chosen layers and heads as PNG and SVG.

Results: `Result` below.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from attention import weights
from attention.core.masks import visibility
from common.errors import nearest
from eval.analysis import Analysis, Evaluated, Measurement
from eval.codec import encode
from eval.display import Shown
from eval.drawing.maps import Maps
from eval.drawing.panels import Panel
from eval.heatmap_cells import pack, pool
from eval.heatmap_rows import Rows
from eval.options import option
from eval.subjects.base import Subject
from eval.subjects.coverage import Coverage, ranges
from models import AttentionCall, ModelError

RESIDUAL_LIMIT = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""Largest residual accepted, by dtype: rounding stays far below, a wrong mask, scale or formula far above."""

SCALES = ("log", "linear")

T = TypeVar("T")

LONGEST = 16_384
"""Tokens of a prompt whose weights the formula still computes within minutes."""

ENTRIES = 2**23
"""Weights of all heads that are held at once, 32 MiB, unless a single row of cells has more."""


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    prompt: str | None = option(None, "text to attend on", unset="how the first held-out document begins")
    length: int = option(48, "of the default prompt", unit="tokens", decides=False)
    layers: tuple[int, ...] | None = option(
        None, "layers of the figure", unset="first, middle and last", decides=False
    )
    heads: tuple[int, ...] | None = option(None, "heads of the figure", unset="two, spread", decides=False)
    scale: str = option("log", "colour scale to begin with", choices=SCALES, decides=False)
    cells: int = option(192, "cells to a side; longer prompts are max-pooled")
    out: str | None = option(
        None,
        "file to write as .html, .png and .svg",
        unset="viewer.html and heatmaps.png, .svg next to the first run",
        decides=False,
    )

    def __post_init__(self) -> None:
        if self.cells < 8:
            raise ModelError(f"heatmaps need at least 8 cells to a side, got {self.cells}")
        if self.scale not in SCALES:
            raise ModelError(f"unknown scale {self.scale!r}{nearest(self.scale, SCALES)}")
        for what, numbers in (("layers", self.layers), ("heads", self.heads)):
            if numbers is not None and min(numbers, default=-1) < 0:
                raise ModelError(f"--{what} takes numbers from 0 on, separated by commas, like 0,3")


@dataclass(frozen=True)
class HeadMap:
    """The weights of one head.

    Attributes:
        head: its number.
        residual: of the weights before pooling.
        zeros, negative: shares of the visible pairs.
        top, cells: the largest |w|, and the weights as `eval/heatmap_cells.py` packs them.
        sink, entropy: of the rows, as `eval/heatmap_rows.py` has them; None where no row counts, or in old results.
    """

    head: int
    residual: float
    zeros: float
    negative: float
    top: float
    cells: str
    sink: float | None = None
    entropy: float | None = None


@dataclass(frozen=True)
class Layer:
    """The heads of a layer."""

    layer: int
    mechanism: str
    window: int | None
    heads: list[HeadMap]


@dataclass(frozen=True)
class Result:
    """The attention of one run: the prompt, its tokens (BOS first), `pool` tokens to the side of a cell, the layers.

    Layers are numbered as in the model; `coverage` says which are there, older results do not: all.
    """

    prompt: str
    pieces: list[str]
    pool: int
    layers: list[Layer]
    coverage: Coverage | None = None


def before(settings: Settings) -> None:
    """Refuse to begin without what draws.

    Raises:
        ModelError: matplotlib or jinja2 is not installed.
    """
    missing = [package for package in ("matplotlib", "jinja2") if find_spec(package) is None]
    if missing:
        raise ModelError(f"heatmaps need {' and '.join(missing)}: pip install -e '.[eval]'")


def shared(subjects: Sequence[Subject], settings: Settings) -> Settings:
    """The settings with the prompt that all runs get."""
    if settings.prompt is not None:
        return settings
    return replace(settings, prompt=opening(subjects[0], settings.length))


def finish(
    measured: Sequence[Evaluated[Result]], settings: Settings, subjects: Sequence[Subject]
) -> dict[str, object]:
    """Write the viewer as HTML and the figure as PNG and SVG.

    Raises:
        ModelError: a layer or head that does not exist, or files that cannot be written.
    """
    # Imported late: matplotlib and jinja2 are optional, and only pictures and pages need them.
    from eval.drawing import heatmaps, style, viewer

    panels = choose(measured, settings.layers, settings.heads)
    if settings.out is None:
        stem, page = subjects[0].path.parent / "heatmaps", subjects[0].path.parent / "viewer.html"
    else:
        stem = Path(settings.out)
        stem = stem.with_suffix("") if stem.suffix in (".html", ".png", ".svg") else stem
        page = stem.with_name(f"{stem.name}.html")
    prompt = measured[0].results.prompt
    scale = heatmaps.Scale.shared(panels, settings.scale)
    files = style.save(heatmaps.draw(panels, scale, prompt), stem)
    asked = settings.layers or settings.heads
    place = (panels[0][0].layer, panels[0][0].head) if asked else None
    size = viewer.write(page, maps(measured), prompt, place=place, scale=settings.scale)
    residuals = [head.residual for one in measured for layer in one.results.layers for head in layer.heads]
    return {
        "viewer": f"{page} ({size / 1e6:.2f} MB)",
        "figure": " ".join(map(str, files)),
        "prompt": prompt if len(prompt) <= 40 else f"{prompt[:39]}…",
        "worst residual": max(residuals),
    }


def maps(measured: Sequence[Evaluated[Result]]) -> list[Maps]:
    """The heatmaps of runs, as the viewer takes them."""
    return [
        _maps(one.results, one.subject, one.file["subject"]["label"], place, one.file["protocol"])
        for place, one in enumerate(measured)
    ]


def section(runs: Sequence[Shown[Result]]) -> str:
    """The viewer of all runs."""
    from eval.drawing import viewer

    shown = [_maps(run.results, run.name, run.label, run.place, run.protocol) for run in runs]
    return viewer.report_section(shown, list(dict.fromkeys(run.results.prompt for run in runs)))


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Record the attention of one run on the prompt.

    Raises:
        ModelError: an empty or too long prompt, a residual beyond the limit.
    """
    prompt = settings.prompt or ""
    ids = subject.encode(prompt)
    if not ids:
        raise ModelError("the prompt is empty; give at least one word with --prompt")
    tokens = ids if subject.bos is None else [subject.bos, *ids]
    longest = min(LONGEST, subject.max_length or LONGEST)
    if len(tokens) > longest:
        raise ModelError(
            f"the prompt has {len(tokens)} tokens for {subject.name}, a heatmap takes at most {longest}"
        )
    limit = RESIDUAL_LIMIT[str(subject.dtype).removeprefix("torch.")]
    factor = -(-len(tokens) // settings.cells)
    layers: list[Layer] = []

    def record(call: AttentionCall) -> None:
        layers.append(_layer(call, factor))

    with torch.inference_mode(), subject.trace(attention=record):
        subject.observe(torch.tensor([tokens]))
    for layer in layers:
        for head in layer.heads:
            if not head.residual <= limit:
                raise ModelError(
                    f"{subject.name}, layer {layer.layer}, head {head.head}: the recomputed weights do not "
                    f"give the model's output (residual {head.residual:.1e}, limit {limit:.0e}), so a heatmap "
                    "of them would mislead"
                )
    protocol = {"tokens": len(tokens), "bos": subject.bos is not None, "residual_limit": limit}
    return Measurement(Result(prompt, subject.pieces(tokens), factor, layers, subject.coverage), protocol)


def row(result: Result) -> dict[str, object]:
    """One line of the table that the command prints."""
    heads = [head for layer in result.layers for head in layer.heads]
    return {"heads": len(heads), "worst residual": max(head.residual for head in heads)}


def notes(result: Result) -> list[str]:
    """The layers that have no maps, and what follows the weights."""
    return [] if result.coverage is None else result.coverage.notes


def opening(subject: Subject, length: int) -> str:
    """The text of about `length` tokens with which the first held-out document begins, BOS counted."""
    if length < 2:
        raise ModelError(f"length must be at least 2 tokens, got {length}")
    first = next(document for document in subject.held_out() if document.strip())
    return subject.decode(subject.encode(first)[: length - 1])


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """Up to `wanted` of the indices below `count`, evenly spread, the first and the last among them."""
    wanted = min(wanted, count)
    return tuple(round(step * (count - 1) / max(wanted - 1, 1)) for step in range(wanted))


def choose(
    measured: Sequence[Evaluated[Result]],
    layers: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
) -> list[list[Panel]]:
    """The panels to draw: a row for each chosen layer and head, a column for each run.

    Args:
        measured: the runs.
        layers: by number; default three, spread over the layers of each run: where runs differ in depth, rows pair them
            in order.
        heads: by number; default two, spread over the heads of each run.

    Raises:
        ModelError: a layer or head that some run lacks.
    """
    rows = []
    by_run = [
        _chosen(one.subject, {layer.layer: layer for layer in one.results.layers}, "layer", layers, 3)
        for one in measured
    ]
    for level in zip(*by_run, strict=False):
        chosen = [
            _chosen(one.subject, {head.head: head for head in layer.heads}, "head", heads, 2)
            for one, layer in zip(measured, level, strict=True)
        ]
        for cell in zip(*chosen, strict=False):
            rows.append([_panel(*place) for place in zip(measured, level, cell, strict=True)])
    return rows


def _chosen(
    run: str, entries: Mapping[int, T], what: str, asked: tuple[int, ...] | None, several: int
) -> list[T]:
    """The entries asked for by number; by default `several`, spread."""
    numbers = list(entries)
    for index in asked or ():
        if index not in entries:
            raise ModelError(f"{run} has no {what} {index} to show (it has {what}s {ranges(numbers)})")
    default = [numbers[place] for place in spread(len(numbers), several)]
    return [entries[index] for index in (default if asked is None else asked)]


def _panel(one: Evaluated[Result], layer: Layer, head: HeadMap) -> Panel:
    return Panel(
        run=one.subject,
        mechanism=layer.mechanism,
        layer=layer.layer,
        head=head.head,
        residual=head.residual,
        zeros=head.zeros,
        sink=head.sink,
        entropy=head.entropy,
        pieces=one.results.pieces,
        pool=one.results.pool,
        packed={"top": head.top, "cells": head.cells},
    )


def _maps(result: Result, name: str, label: str, place: int, protocol: Mapping[str, Any]) -> Maps:
    found = {layer.layer: layer for layer in result.layers}
    # The viewer counts layers: one that has no weights has no heads.
    layers = [found.get(number, Layer(number, "", None, [])) for number in range(max(found) + 1)]
    limit = protocol["residual_limit"]
    return Maps(name, label, place, result.pieces, result.pool, encode(layers), limit)


def _layer(call: AttentionCall, factor: int) -> Layer:
    _, length, heads, _ = call.query.shape
    window = call.spec.window or call.mechanism.window
    value = call.value[0].float().repeat_interleave(heads // call.value.shape[2], 1)
    output = call.output[0].float().transpose(0, 1)
    side = -(-length // factor)
    cells = np.full((heads, side, side), math.nan, np.float32)
    zeros, negative = torch.zeros(2, heads, dtype=torch.int64)
    pairs, mixed, rows = 0, [], Rows(heads)
    # Blocks of whole cells.
    height = max(1, ENTRIES // (heads * length * factor)) * factor
    for start in range(0, length, height):
        stop = min(start + height, length)
        weight, visible = _rows(call, start, stop, window)
        mixed.append(torch.einsum("hts,shd->htd", weight, value[:stop]))
        zeros += ((weight == 0) & visible).sum((1, 2)).cpu()
        negative += (weight < 0).sum((1, 2)).cpu()
        pairs += int(visible.sum())
        rows.add(weight, visible)
        shown = weight.masked_fill(~visible, math.nan).cpu().numpy()
        edge = -(-stop // factor)
        for head in range(heads):
            cells[head, start // factor : edge, :edge] = pool(shown[head], factor)
    whole = torch.cat(mixed, 1)
    return Layer(
        layer=call.layer,
        mechanism=call.mechanism.name,
        window=window,
        heads=[
            HeadMap(
                head=head,
                residual=relative(whole[head], output[head]),
                zeros=zeros[head].item() / pairs,
                negative=negative[head].item() / pairs,
                **pack(cells[head]),
                sink=rows.sink[head],
                entropy=rows.entropy[head],
            )
            for head in range(heads)
        ],
    )


def _rows(call: AttentionCall, start: int, stop: int, window: int | None) -> tuple[Tensor, Tensor]:
    """Weights [H, rows, stop] of some queries by the formula, 0 where hidden, and what they see [rows, stop].

    Attention is causal: later keys are left out, since the queries of a call are the last of its positions.
    """
    query, key = call.query[:, start:stop], call.key[:, :stop]
    weight = weights(query, key, call.mechanism, kernel="dense", **call.spec.options)[0].float()
    return weight, visibility(stop - start, stop, window=window, device=query.device).mask()[0]


def relative(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||; a wanted zero must be met exactly, otherwise infinite."""
    difference, norm = (found - wanted).norm().item(), wanted.norm().item()
    return difference / norm if norm > 0 else (0.0 if difference == 0 else float("inf"))


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    notes=notes,
    before=before,
    shared=shared,
    finish=finish,
    heading="Heatmaps",
    order=200,
    columns=lambda runs: [],
    section=section,
)
