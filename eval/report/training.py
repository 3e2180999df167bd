"""The columns and figures that come from the model itself and from its training log."""

import statistics
from collections.abc import Sequence
from functools import partial

import numpy as np

from eval.display import Curve, Figure, four, whole
from eval.report.collection import Measured
from eval.report.columns import Column

POINTS = 400
"""Points that a training curve keeps; longer logs are thinned evenly."""


def columns() -> list[Column]:
    """Size of the model, length of training, quality and speed."""

    def speed(run: Measured) -> float | None:
        rates = [rate for _, rate in run.logged("tokens_per_second")]
        return statistics.median(rates) if rates else None

    def readings(run: Measured) -> Sequence[float] | None:
        rates = [rate for _, rate in run.logged("tokens_per_second")]
        return np.quantile(rates, [0.05, 0.95]).tolist() if rates else None

    column = partial(Column, group="Quality and cost")
    return [
        column(
            key="bits_per_byte", title="validation", unit="bits/byte", better="lower", source="training", show=four,
            of=lambda run: run.last("bits_per_byte"), headline=True,
            meaning="Loss on held-out text at the end of training, in bits for each byte of the text, so that models "
            "with other tokenizers compare.",
        ),
        column(
            key="parameters", title="parameters", unit="", better=None, source="model", show=count,
            of=lambda run: run.parameters, meaning="Numbers that were trained, shared ones counted once.",
        ),
        column(
            key="tokens", title="trained on", unit="tokens", better=None, source="training", show=count,
            of=lambda run: run.last("tokens"), meaning="Tokens that the model has seen in training, repeats counted.",
        ),
        column(
            key="logged_speed", title="speed in training", unit="tokens/s", better=None, source="training", show=whole,
            of=speed, interval=readings,
            meaning="Median of the training log. It depends on what else the machine did, so it ranks nothing; "
            "python -m benchmarks.bench_train compares speeds in turns.",
        ),
    ]  # fmt: skip


def figures(runs: Sequence[Measured]) -> list[Figure]:
    """Loss over steps."""
    faint = [
        curve for place, run in enumerate(runs) for curve in _log(None, place, run.logged("loss"), faint=True)
    ]
    held_out = [
        curve
        for place, run in enumerate(runs)
        for curve in _log(run.name, place, _trained(run, "validation_loss"))
    ]
    bits = [
        curve
        for place, run in enumerate(runs)
        for curve in _log(run.name, place, _trained(run, "bits_per_byte"))
    ]
    return [
        Figure(
            "Loss",
            "Nats per token. Pale: training, as logged, each on its own batch. Strong: held-out text, without the "
            "untrained model (step 0).",
            faint + held_out,
            "step",
            "nats per token",
        ),
        Figure(
            "Bits per byte on held-out text",
            "The loss in bits, divided by the bytes of the text: independent of the tokenizer. Without step 0.",
            bits,
            "step",
            "bits per byte",
        ),
    ]


def _trained(run: Measured, key: str) -> list[tuple[int, float]]:
    """What was logged of the model once it had been trained at all."""
    return [(step, value) for step, value in run.logged(key) if step > 0]


def _log(
    label: str | None, place: int, points: Sequence[tuple[int, float]], faint: bool = False
) -> list[Curve]:
    """The curve of a training log, thinned; none if nothing was logged."""
    every = max(1, -(-len(points) // POINTS))
    kept = [*points[:-1:every], *points[-1:]]
    return [Curve(label, place, [x for x, _ in kept], [y for _, y in kept], faint=faint)] if kept else []


def count(value: float) -> str:
    """A large number in short."""
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"
