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

Results:

    {
      "prompt": "To be, or not to be", "pieces": ["<s>", "To", " be", ...],       BOS first, if there is one
      "pool": 1,                                                                 tokens to the side of a cell
      "layers": [
        {"layer": 0, "mechanism": "softpick", "window": null,
         "heads": [{"head": 0, "residual": 2.1e-07, "zeros": 0.41, "negative": 0.0,
                    "top": 0.93, "cells": "..."}]}]                              packed as `eval/heatmap_cells.py` says
    }

`zeros` and `negative` are shares of the visible pairs, `top` is the largest |w|. `unpack(head)` of
`eval.heatmap_cells` gives a head's weights as an array.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention import nearest, weights
from attention.core.masks import visibility
from eval import analysis
from eval.heatmap_cells import pack, pool, unpack
from eval.subjects.subject import Subject
from models import AttentionCall, ModelError

RESIDUAL_LIMIT = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""Largest residual accepted, by dtype: rounding stays far below, a wrong mask, scale or formula far above."""

SCALES = ("log", "linear")

LONGEST = 16_384
"""Tokens of a prompt whose weights the formula still computes within minutes."""

ENTRIES = 2**23
"""Weights of all heads that are held at once, 32 MiB, unless a single row of cells has more."""


@dataclass(frozen=True)
class Settings:
    """What to draw."""

    prompt: str | None = field(
        default=None, metadata={"help": "text; default: how the first held-out document begins"}
    )
    length: int = field(default=48, metadata={"help": "tokens of the default prompt"})
    layers: str | None = field(
        default=None, metadata={"help": "of the figure, like 0,3; default: first, middle and last"}
    )
    heads: str | None = field(
        default=None, metadata={"help": "of the figure, like 0,1; default: two, spread"}
    )
    scale: str = field(default="log", metadata={"help": "colour scale to begin with, log or linear"})
    cells: int = field(default=192, metadata={"help": "cells to a side; longer prompts are max-pooled"})
    out: str | None = field(
        default=None,
        metadata={
            "help": "written as .html, .png and .svg; default: viewer.html and heatmaps.png, .svg next to the first run"
        },
    )


@dataclass(frozen=True)
class Recording:
    """What is recorded of one run: the part of the settings that decides the content of its result file."""

    prompt: str
    cells: int


@dataclass(frozen=True)
class Panel:
    """One head's attention on the prompt."""

    run: str
    mechanism: str
    layer: int
    head: int
    residual: float
    zeros: float
    pieces: list[str]
    pool: int
    packed: Mapping[str, Any]

    @property
    def title(self) -> str:
        """The run, and its mechanism where the name does not say it."""
        return self.run if self.run == self.mechanism else f"{self.run} ({self.mechanism})"

    @property
    def place(self) -> str:
        """Where the head is."""
        return f"layer {self.layer}, head {self.head}"

    @property
    def caption(self) -> str:
        """What is printed on the panel: how well its weights explain the output, zeros, and pooling."""
        pooled = f" · largest of {self.pool} × {self.pool}" if self.pool > 1 else ""
        return f"residual {short(self.residual)} · exact zeros {self.zeros:.0%}{pooled}"

    @cached_property
    def matrix(self) -> np.ndarray:
        """[cells, cells], nan where invisible."""
        return unpack(self.packed)

    @property
    def labels(self) -> list[str]:
        """The first token of each row and column of cells."""
        return self.pieces[:: self.pool]


def before(settings: Settings) -> None:
    """Refuse what can be refused before a model is opened.

    Raises:
        ModelError: no matplotlib or jinja2, an unknown scale, layers or heads that are not numbers, too few cells.
    """
    missing = [package for package in ("matplotlib", "jinja2") if find_spec(package) is None]
    if missing:
        raise ModelError(f"heatmaps need {' and '.join(missing)}: pip install -e '.[eval]'")
    if settings.cells < 8:
        raise ModelError(f"heatmaps need at least 8 cells to a side, got {settings.cells}")
    if settings.scale not in SCALES:
        raise ModelError(f"unknown scale {settings.scale!r}{nearest(settings.scale, SCALES)}")
    for what, text in (("layers", settings.layers), ("heads", settings.heads)):
        if text is not None:
            indices(text, what)


def run_all(subjects: Sequence[Subject], settings: Settings) -> dict[str, object]:
    """Record every run, write the viewer as HTML and the figure as PNG and SVG.

    Raises:
        ModelError: a layer, head, prompt or scale that does not exist, a residual beyond the limit, or files that
            cannot be written.
    """
    before(settings)
    # Imported late: matplotlib and jinja2 are optional, and only pictures and pages need them.
    from eval.drawing import figures, viewer

    prompt = opening(subjects[0], settings.length) if settings.prompt is None else settings.prompt
    layers = None if settings.layers is None else indices(settings.layers, "layers")
    heads = None if settings.heads is None else indices(settings.heads, "heads")
    this = analysis.get("heatmaps")
    records = [analysis.evaluate(this, subject, Recording(prompt, settings.cells))[0] for subject in subjects]
    panels = choose(records, layers, heads)
    if settings.out is None:
        stem, page = subjects[0].path.parent / "heatmaps", subjects[0].path.parent / "viewer.html"
    else:
        stem = Path(settings.out)
        stem = stem.with_suffix("") if stem.suffix in (".html", ".png", ".svg") else stem
        page = stem.with_name(f"{stem.name}.html")
    files = figures.save(figures.heatmaps(panels, figures.Scale.shared(panels, settings.scale), prompt), stem)
    first = panels[0][0]
    size = viewer.write(page, records, layer=first.layer, head=first.head, scale=settings.scale)
    return {
        "viewer": f"{page} ({size / 1e6:.2f} MB)",
        "figure": " ".join(map(str, files)),
        "prompt": prompt if len(prompt) <= 40 else f"{prompt[:39]}…",
        "worst residual": max(
            panel.residual for record in records for layer in every(record) for panel in layer
        ),
    }


def run(subject: Subject, settings: Recording) -> dict[str, Any]:
    """Record the attention of one run on the prompt.

    Raises:
        ModelError: an empty or too long prompt, a residual beyond the limit.
    """
    ids = subject.encode(settings.prompt)
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
    layers: list[dict[str, Any]] = []

    def record(call: AttentionCall) -> None:
        layers.append(_layer(call, factor))

    with torch.inference_mode(), subject.trace(attention=record):
        subject.observe(torch.tensor([tokens]))
    for layer in layers:
        for head in layer["heads"]:
            if not head["residual"] <= limit:
                raise ModelError(
                    f"{subject.name}, layer {layer['layer']}, head {head['head']}: the recomputed weights do not "
                    f"give the model's output (residual {head['residual']:.1e}, limit {limit:.0e}), so a heatmap "
                    "of them would mislead"
                )
    return {
        "protocol": {"tokens": len(tokens), "bos": subject.bos is not None, "residual_limit": limit},
        "results": {
            "prompt": settings.prompt,
            "pieces": subject.pieces(tokens),
            "pool": factor,
            "layers": layers,
        },
    }


def row(results: dict[str, Any]) -> dict[str, object]:
    """Cells of the table that the command line prints."""
    heads = [head for layer in results["layers"] for head in layer["heads"]]
    return {"heads": len(heads), "worst residual": max(head["residual"] for head in heads)}


def opening(subject: Subject, length: int) -> str:
    """The text of about `length` tokens with which the first held-out document begins, BOS counted."""
    if length < 2:
        raise ModelError(f"length must be at least 2 tokens, got {length}")
    first = next(document for document in subject.held_out() if document.strip())
    return subject.decode(subject.encode(first)[: length - 1])


def indices(text: str, what: str) -> tuple[int, ...]:
    """The numbers in "0,3"."""
    try:
        found = tuple(dict.fromkeys(int(number) for number in text.split(",")))
    except ValueError:
        found = ()
    if not found or min(found) < 0:
        raise ModelError(f"--{what} takes numbers from 0 on, separated by commas, like 0,3; got {text!r}")
    return found


def spread(count: int, wanted: int) -> tuple[int, ...]:
    """Up to `wanted` of the indices below `count`, evenly spread, the first and the last among them."""
    wanted = min(wanted, count)
    return tuple(round(step * (count - 1) / max(wanted - 1, 1)) for step in range(wanted))


def choose(
    records: Sequence[Mapping[str, Any]],
    layers: tuple[int, ...] | None = None,
    heads: tuple[int, ...] | None = None,
) -> list[list[Panel]]:
    """The panels to draw: a row for each chosen layer and head, a column for each run.

    Args:
        records: result files of this analysis.
        layers: by number; default three, spread over the layers of each run: where runs differ in depth, rows pair them
            in order.
        heads: by number; default two, spread over the heads of each run.

    Raises:
        ModelError: a layer or head that some run lacks.
    """
    rows = []
    by_run = [_chosen(record, record["results"]["layers"], "layer", layers, 3) for record in records]
    for level in zip(*by_run, strict=False):
        chosen = [
            _chosen(record, layer["heads"], "head", heads, 2)
            for record, layer in zip(records, level, strict=True)
        ]
        for cell in zip(*chosen, strict=False):
            rows.append([_panel(*place) for place in zip(records, level, cell, strict=True)])
    return rows


def every(record: Mapping[str, Any]) -> list[list[Panel]]:
    """All heads of a run: a list for each layer."""
    return [[_panel(record, layer, head) for head in layer["heads"]] for layer in record["results"]["layers"]]


def _chosen(
    record: Mapping[str, Any],
    entries: Sequence[Mapping[str, Any]],
    what: str,
    asked: tuple[int, ...] | None,
    several: int,
) -> list[Mapping[str, Any]]:
    """The entries asked for by number; by default `several`, spread."""
    for index in asked or ():
        if index >= len(entries):
            raise ModelError(
                f"{record['subject']['name']} has no {what} {index} (it has {what}s 0 to {len(entries) - 1})"
            )
    return [entries[index] for index in (spread(len(entries), several) if asked is None else asked)]


def _panel(record: Mapping[str, Any], layer: Mapping[str, Any], head: Mapping[str, Any]) -> Panel:
    return Panel(
        run=record["subject"]["name"],
        mechanism=layer["mechanism"],
        layer=layer["layer"],
        head=head["head"],
        residual=head["residual"],
        zeros=head["zeros"],
        pieces=record["results"]["pieces"],
        pool=record["results"]["pool"],
        packed=head,
    )


def _layer(call: AttentionCall, factor: int) -> dict[str, Any]:
    _, length, heads, _ = call.query.shape
    window = call.arguments.get("window") or call.mechanism.window
    value = call.value[0].float().repeat_interleave(heads // call.value.shape[2], 1)
    output = call.output[0].float().transpose(0, 1)
    side = -(-length // factor)
    cells = np.full((heads, side, side), math.nan, np.float32)
    zeros, negative = torch.zeros(2, heads, dtype=torch.int64)
    pairs, mixed = 0, []
    # Blocks of whole cells.
    height = max(1, ENTRIES // (heads * length * factor)) * factor
    for start in range(0, length, height):
        stop = min(start + height, length)
        weight, visible = _rows(call, start, stop, window)
        mixed.append(torch.einsum("hts,shd->htd", weight, value[:stop]))
        zeros += ((weight == 0) & visible).sum((1, 2)).cpu()
        negative += (weight < 0).sum((1, 2)).cpu()
        pairs += int(visible.sum())
        shown = weight.masked_fill(~visible, math.nan).cpu().numpy()
        edge = -(-stop // factor)
        for head in range(heads):
            cells[head, start // factor : edge, :edge] = pool(shown[head], factor)
    whole = torch.cat(mixed, 1)
    return {
        "layer": call.layer,
        "mechanism": call.mechanism.name,
        "window": window,
        "heads": [
            {
                "head": head,
                "residual": relative(whole[head], output[head]),
                "zeros": zeros[head].item() / pairs,
                "negative": negative[head].item() / pairs,
                **pack(cells[head]),
            }
            for head in range(heads)
        ],
    }


def _rows(call: AttentionCall, start: int, stop: int, window: int | None) -> tuple[Tensor, Tensor]:
    """Weights [H, rows, stop] of some queries by the formula, 0 where hidden, and what they see [rows, stop].

    Attention is causal: later keys are left out, since the queries of a call are the last of its positions.
    """
    query, key = call.query[:, start:stop], call.key[:, :stop]
    weight = weights(query, key, call.mechanism, kernel="dense", **call.arguments)[0].float()
    return weight, visibility(stop - start, stop, window=window, device=query.device).mask()[0]


def relative(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||; a wanted zero must be met exactly, otherwise infinite."""
    difference, norm = (found - wanted).norm().item(), wanted.norm().item()
    return difference / norm if norm > 0 else (0.0 if difference == 0 else float("inf"))


def short(residual: float) -> str:
    """A residual in two digits; 0 means equal bit for bit."""
    return f"{residual:.1e}" if residual else "0"
