"""Attention weights of chosen layers and heads on one prompt, runs side by side, checked against the model's output.

The model runs the prompt once. For each chosen layer the weights W are then recomputed from the query and key that the
layer saw, by the mechanism's formula (the dense kernel, whatever the model used), and multiplied with its values:
`residual = ||W v - o|| / ||o||`, with o the head's output in that forward pass, is stored, printed on each panel, and
must stay below the limit of the dtype. What a panel shows is therefore what the model did.

Every run gets the same prompt, and all panels of a figure share one colour scale. A weight that is exactly zero has a
colour of its own, a key that the query cannot see is blank.

Results:

    {
      "prompt": "To be, or not to be", "pieces": ["<s>", "To", " be", ...],       BOS first, if there is one
      "layers": [
        {"layer": 0, "mechanism": "softpick", "window": null,
         "heads": [{"head": 0, "residual": 2.1e-07, "zeros": 0.41,
                    "weights": [[0.0], [0.12, 0.3], ...]}]}]      row i: keys 0..i, null where invisible
    }

All heads of a chosen layer are stored. `zeros` is the share of exact zeros among the visible pairs.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from attention import nearest, weights
from attention.masks import visibility
from eval import analysis
from eval.subject import Subject
from models import AttentionCall, ModelError

RESIDUAL_LIMIT = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 3e-2}
"""Largest residual accepted, by dtype: rounding stays far below, a wrong mask, scale or formula far above."""

SCALES = ("log", "linear")

LONGEST = 256
"""Tokens of a prompt beyond which a heatmap cannot be read."""


@dataclass(frozen=True)
class Settings:
    """What to draw."""

    prompt: str | None = field(
        default=None, metadata={"help": "text; default: how the first held-out document begins"}
    )
    length: int = field(default=48, metadata={"help": "tokens of the default prompt"})
    layers: str | None = field(default=None, metadata={"help": "like 0,3; default: first, middle and last"})
    heads: str | None = field(default=None, metadata={"help": "like 0,1; default: two, spread"})
    scale: str = field(default="log", metadata={"help": "colour scale, log or linear"})
    out: str | None = field(
        default=None,
        metadata={"help": "figure, written as .png and .svg; default: heatmaps next to the first run"},
    )


@dataclass(frozen=True)
class Recording:
    """What is recorded of one run: the part of the settings that decides the content of its result file."""

    prompt: str
    layers: tuple[int, ...]


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
    weights: list[list[float | None]]

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
        """What is printed on the panel: how well its weights explain the output, and the share of exact zeros."""
        return f"residual {short(self.residual)} · exact zeros {self.zeros:.0%}"

    def matrix(self) -> np.ndarray:
        """[T, T], nan where invisible."""
        matrix = np.full((len(self.weights), len(self.weights)), np.nan)
        for i, row in enumerate(self.weights):
            matrix[i, : len(row)] = [math.nan if weight is None else weight for weight in row]
        return matrix


def before(settings: Settings) -> None:
    """Refuse what can be refused before a model is opened.

    Raises:
        ModelError: no matplotlib, an unknown scale, layers or heads that are not numbers.
    """
    if find_spec("matplotlib") is None:
        raise ModelError("heatmaps need the package matplotlib: pip install 'attention-zoo[eval]'")
    if settings.scale not in SCALES:
        raise ModelError(f"unknown scale {settings.scale!r}{nearest(settings.scale, SCALES)}")
    for what, text in (("layers", settings.layers), ("heads", settings.heads)):
        if text is not None:
            indices(text, what)


def run_all(subjects: Sequence[Subject], settings: Settings) -> dict[str, object]:
    """Record every run and draw the figure, as PNG and SVG.

    Raises:
        ModelError: a layer, head, prompt or scale that does not exist, or a residual beyond the limit.
    """
    before(settings)
    # Imported late: matplotlib is optional, and only figures need it.
    from eval import figures

    prompt = opening(subjects[0], settings.length) if settings.prompt is None else settings.prompt
    asked = None if settings.layers is None else indices(settings.layers, "layers")
    heads = None if settings.heads is None else indices(settings.heads, "heads")
    this = analysis.get("heatmaps")
    records = []
    for subject in subjects:
        recording = Recording(prompt, spread(len(subject.blocks), 3) if asked is None else asked)
        records.append(analysis.evaluate(this, subject, recording)[0])
    panels = choose(records, heads)
    stem = subjects[0].path.parent / "heatmaps" if settings.out is None else Path(settings.out)
    stem = stem.with_suffix("") if stem.suffix in (".png", ".svg") else stem
    files = figures.save(figures.heatmaps(panels, figures.Scale.shared(panels, settings.scale), prompt), stem)
    return {
        "figure": " ".join(map(str, files)),
        "prompt": prompt if len(prompt) <= 40 else f"{prompt[:39]}…",
        "worst residual": max(panel.residual for row in panels for panel in row),
    }


def run(subject: Subject, settings: Recording) -> dict[str, Any]:
    """Record the attention of one run on the prompt.

    Raises:
        ModelError: an empty or too long prompt, a layer the model lacks, a residual beyond the limit.
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
    depth = len(subject.blocks)
    for index in settings.layers:
        if not 0 <= index < depth:
            raise ModelError(f"{subject.name} has no layer {index} (it has layers 0 to {depth - 1})")
    limit = RESIDUAL_LIMIT[str(subject.dtype).removeprefix("torch.")]
    layers: list[dict[str, Any]] = []

    def record(call: AttentionCall) -> None:
        if call.layer in settings.layers:
            layers.append(_layer(call))

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
        "results": {"prompt": settings.prompt, "pieces": subject.pieces(tokens), "layers": layers},
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


def choose(records: Sequence[Mapping[str, Any]], heads: tuple[int, ...] | None = None) -> list[list[Panel]]:
    """The panels to draw: a row for each recorded layer and chosen head, a column for each run.

    Where runs differ in depth, rows pair their layers in order.

    Args:
        records: result files of this analysis.
        heads: by number; default two, spread over the heads of each run.

    Raises:
        ModelError: a head that some run lacks.
    """
    rows = []
    shared = min(len(record["results"]["layers"]) for record in records)
    for position in range(shared):
        layers = [record["results"]["layers"][position] for record in records]
        chosen = [_heads(record, layer, heads) for record, layer in zip(records, layers, strict=True)]
        for places in zip(*chosen, strict=False):
            rows.append([_panel(*cell) for cell in zip(records, layers, places, strict=True)])
    return rows


def every(record: Mapping[str, Any]) -> list[list[Panel]]:
    """All recorded heads of a run: a list for each layer."""
    return [
        [_panel(record, layer, head) for head in range(len(layer["heads"]))]
        for layer in record["results"]["layers"]
    ]


def _heads(
    record: Mapping[str, Any], layer: Mapping[str, Any], heads: tuple[int, ...] | None
) -> tuple[int, ...]:
    count = len(layer["heads"])
    for head in heads or ():
        if head >= count:
            raise ModelError(
                f"{record['subject']['name']} has no head {head} (it has heads 0 to {count - 1})"
            )
    return spread(count, 2) if heads is None else heads


def _panel(record: Mapping[str, Any], layer: Mapping[str, Any], head: int) -> Panel:
    entry = layer["heads"][head]
    return Panel(
        run=record["subject"]["name"],
        mechanism=layer["mechanism"],
        layer=layer["layer"],
        head=head,
        residual=entry["residual"],
        zeros=entry["zeros"],
        pieces=record["results"]["pieces"],
        weights=entry["weights"],
    )


def _layer(call: AttentionCall) -> dict[str, Any]:
    recomputed = weights(call.query, call.key, call.mechanism, kernel="dense", **call.arguments)[0].float()
    value = call.value[0].float().repeat_interleave(call.query.shape[2] // call.value.shape[2], 1)
    mixed = torch.einsum("hts,shd->htd", recomputed, value)
    output = call.output[0].float().transpose(0, 1)
    window = call.arguments.get("window") or call.mechanism.window
    visible = visibility(
        call.query.shape[1],
        call.key.shape[1],
        causal=call.arguments.get("causal", True),
        window=window,
        documents=call.arguments.get("documents"),
        device=call.query.device,
    ).mask()[0]
    return {
        "layer": call.layer,
        "mechanism": call.mechanism.name,
        "window": window,
        "heads": [
            {
                "head": head,
                "residual": relative(mixed[head], output[head]),
                "zeros": (recomputed[head][visible] == 0).double().mean().item(),
                "weights": _rows(recomputed[head], visible),
            }
            for head in range(len(recomputed))
        ],
    }


def relative(found: Tensor, wanted: Tensor) -> float:
    """||found - wanted|| / ||wanted||; a wanted zero must be met exactly, otherwise infinite."""
    difference, norm = (found - wanted).norm().item(), wanted.norm().item()
    return difference / norm if norm > 0 else (0.0 if difference == 0 else float("inf"))


def short(residual: float) -> str:
    """A residual in two digits; 0 means equal bit for bit."""
    return f"{residual:.1e}" if residual else "0"


def _rows(matrix: Tensor, visible: Tensor) -> list[list[float | None]]:
    """Row i up to its own key, four significant digits, None where invisible."""
    return [
        [float(f"{weight:.4g}") if seen else None for weight, seen in zip(row[: i + 1], mask, strict=False)]
        for i, (row, mask) in enumerate(zip(matrix.tolist(), visible.tolist(), strict=True))
    ]
