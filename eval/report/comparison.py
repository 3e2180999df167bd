"""Runs side by side: the columns of the comparison and the best value of each.

Everything is read from result files and training logs. A number that was not measured stays missing, with the reason.
"""

import math
import statistics
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import pairwise
from typing import Any

import numpy as np

from eval import analysis
from eval.analyses.harness import OFFLINE
from eval.display import Number
from eval.intervals import NORMAL, Interval, paired, standard_error, student
from eval.quantization.scores import ratio_by_document

EPSILON = "0.3"
"""Threshold of the sink rate that the comparison shows; the result files hold others."""

DEAD = "0.01"
"""Threshold below which the output of a head counts as dead."""

IDLE = ("device", "train_length", "max_length", "no_temperature")
"""Entries of a protocol that decide no number: where it was computed, what the model is; lengths count as measured."""

LEGEND = (
    "The best number of a column is marked where lower or higher is better (↓ ↑), all runs were measured alike, each "
    "has one seed, and the next best is beyond the noise: outside of the 95 % interval of the difference on the same "
    "documents or questions, or with an interval that does not overlap. It is then the best of these trained models on "
    "such text, not of their mechanisms: that takes seeds, and with several of them nothing is marked here. Without "
    "noise that is known there is no mark. A dash stands for what was not measured, ± for one standard error, [ ] for "
    "a 95 % interval (of speed: of nine in ten readings), † for a number that would now be measured otherwise: with "
    "other libraries, text or dtype."
)

PRIVATE = ("name", "out", "seed")
"""Config keys in which runs that differ in their seed only may differ."""

SHOWN = {"sinks", "activations", "quantize", "lengths", "harness", "heatmaps"}
"""Analyses that have columns or a section of their own."""


@dataclass(frozen=True)
class Measured:
    """What is known about a run.

    Attributes:
        name: unique among the runs compared.
        label: what attends, e.g. "softmax*1,swat*3".
        path: of the run.
        step: of the checkpoint, None where the run has no steps.
        checkpoint: sha256 of the weights.
        train_length: tokens per training sequence.
        parameters: how many numbers were trained, shared ones counted once.
        results: result files by analysis, all measured on this checkpoint.
        missing: why there is no result, by analysis; "training" stands for the training log.
        outdated: what of a result's protocol is no longer what it would be now, by analysis.
        metrics: records of the training log up to `step`.
        config, record: config.yaml and run.json; None for a model that others trained.
    """

    name: str
    label: str
    path: str
    step: int | None
    checkpoint: str
    train_length: int
    parameters: int
    results: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any] | None = None
    record: Mapping[str, Any] | None = None
    outdated: Mapping[str, str] = field(default_factory=dict)

    def get(self, name: str, *keys: str) -> Any:
        """An entry of a result file; None where the file or the entry is missing."""
        found: Any = self.results.get(name, {}).get("results")
        for key in keys:
            found = found.get(key) if isinstance(found, Mapping) else None
        return found

    def logged(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of each line of the training log that has `key`."""
        return [(record["step"], record[key]) for record in self.metrics if record.get(key) is not None]

    def last(self, key: str) -> float | None:
        """The newest value of `key` in the training log."""
        return next((value for _, value in reversed(self.logged(key))), None)

    def at_length(self, times: int) -> Mapping[str, Any]:
        """What the length analysis found at `times` the training length; empty if it was not measured."""
        entries = (self.get("lengths", "lengths") or {}).values()
        return next((entry for entry in entries if entry.get("multiple") == times), {})


@dataclass(frozen=True)
class Column:
    """A number of each run.

    Attributes:
        key: unique, for the data file.
        group: the table it stands in.
        title, unit: its header.
        better: "lower", "higher", or None for a number that describes and does not rank.
        source: the analysis it comes from, or "training" or "model".
        show: how it is written.
        of: how it is found.
        length: tokens per window, where the analysis measures at several lengths.
        parts: what each independent document or question contributes to it, where the analysis keeps that.
        error: how its standard error is found, where the parts do not give it.
        interval: how the ends of its 95 % interval are found, where neither gives them.
    """

    key: str
    group: str
    title: str
    unit: str
    better: str | None
    source: str
    show: Callable[[float], str]
    of: Callable[[Measured], float | None]
    length: str | None = None
    parts: Callable[[Measured], Mapping[str, float] | None] = lambda run: None
    error: Callable[[Measured], float | None] = lambda run: None
    interval: Callable[[Measured], Sequence[float] | None] = lambda run: None

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()

    def protocol(self, run: Measured) -> Mapping[str, Any]:
        """What decided the number of a run beside the run itself."""
        if self.source == "model":
            return {}
        if self.source == "training":
            return {"data": (run.record or {}).get("data"), "length": run.train_length}
        found = {
            name: entry for name, entry in run.results[self.source]["protocol"].items() if name not in IDLE
        }
        if self.length is not None:
            found["windows"] = found.get("windows", {}).get(self.length)
        # What analyses of multiples of a length multiply.
        return found | {"length": run.get(self.source, "train_length")}

    def signed(self, difference: float) -> str:
        """A difference between two values, with its sign; between two shares in percentage points."""
        return ("−" if difference < 0 else "+") + self.show(abs(difference)).replace("%", " pp")


@dataclass(frozen=True)
class Cell:
    """A column's number of one run, as a number and as text; why it is missing; what of its protocol is outdated."""

    value: float | None
    text: str
    best: bool = False
    missing: str | None = None
    outdated: str | None = None


def columns(runs: Sequence[Measured]) -> list[Column]:
    """The columns of these runs, in the order of reading."""
    return [
        *_quality(),
        *_attention(sink_length(runs)),
        *_residual_stream(runs),
        *_robustness(),
        *_harness(runs),
        *_others(runs),
    ]


def cells(column: Column, runs: Sequence[Measured]) -> list[Cell]:
    """The column's number of each run.

    The best are marked as `LEGEND` says: if the column ranks, no run has a second seed, the runs were measured alike,
    and the next best is beyond the noise.
    """
    winners = _best(column, runs)
    values = [finite(column.of(run)) for run in runs]
    return [
        _absent(column, run) if value is None else _present(column, run, value, best=run in winners)
        for run, value in zip(runs, values, strict=True)
    ]


def known(column: Column, runs: Sequence[Measured]) -> list[tuple[Measured, float]]:
    """The runs that have a number, and their numbers, the smallest first."""
    found = [(run, value) for run in runs if (value := finite(column.of(run))) is not None]
    return sorted(found, key=lambda entry: (entry[1], entry[0].name))


def disagreements(column: Column, runs: Sequence[Measured]) -> list[str]:
    """What differs between the ways in which the runs got their numbers, so that these do not compare.

    Args:
        column: the numbers.
        runs: those without one do not matter.
    """
    protocols = [column.protocol(run) for run in runs if column.of(run) is not None]
    names = dict.fromkeys(name for protocol in protocols for name in protocol)
    return [name for name in names if any(a.get(name) != b.get(name) for a, b in pairwise(protocols))]


def sink_length(runs: Sequence[Measured]) -> str | None:
    """The window length at which row statistics are compared.

    The training length if all runs share one and were measured at it, otherwise the longest that all were measured at.
    """
    measured = [set(run.get("sinks", "lengths") or {}) for run in runs if "sinks" in run.results]
    shared = set.intersection(*measured) if measured else set()
    trained = {str(run.train_length) for run in runs}
    return trained.pop() if len(trained) == 1 and trained <= shared else max(shared, key=int, default=None)


def difference(column: Column, first: Measured, second: Measured) -> Interval | None:
    """First minus second on the same documents or questions; None where these are not known of both."""
    mine, theirs = column.parts(first), column.parts(second)
    return paired(mine, theirs) if mine and theirs and mine.keys() == theirs.keys() else None


def kind(run: Measured) -> str:
    """What a run is but for its seed; that of a model that others trained is its name."""
    kept = {key: value for key, value in (run.config or {}).items() if key not in PRIVATE}
    return repr((run.label, _sorted(kept))) if run.config else run.name


def _best(column: Column, runs: Sequence[Measured]) -> list[Measured]:
    """The runs to mark, those that show the same number; none where `cells` says so."""
    if not column.better or disagreements(column, runs) or len({kind(run) for run in runs}) < len(runs):
        return []
    ranked = known(column, runs)[:: 1 if column.better == "lower" else -1]
    winners = [run for run, value in ranked if column.show(value) == column.show(ranked[0][1])]
    others = [run for run, _ in ranked[len(winners) :]]
    apart = all(_apart(column, winner, other) for winner in winners for other in others)
    return winners if others and apart else []


def _apart(column: Column, first: Measured, second: Measured) -> bool:
    """Whether two runs differ by more than noise, as far as that is known."""
    found = difference(column, first, second)
    if found is not None:
        return found.sign != 0
    ends = [_ends(column, run) for run in (first, second)]
    known = [end for end in ends if end is not None]
    return len(known) == 2 and max(low for low, _ in known) > min(high for _, high in known)


def _ends(column: Column, run: Measured) -> Sequence[float] | None:
    """The ends of a number's 95 % interval."""
    parts, value, error = column.parts(run), finite(column.of(run)), finite(column.error(run))
    found = student(list(parts.values())) if parts else None
    if (interval := column.interval(run)) is not None:
        return interval
    if found is not None and found.low is not None and found.high is not None:
        return found.low, found.high
    return None if error is None or value is None else (value - NORMAL * error, value + NORMAL * error)


def _error(column: Column, run: Measured) -> float | None:
    parts = column.parts(run)
    return standard_error(parts.values()) if parts else finite(column.error(run))


def _sorted(value: Any) -> Any:
    return (
        sorted((key, _sorted(entry)) for key, entry in value.items()) if isinstance(value, Mapping) else value
    )


def _absent(column: Column, run: Measured) -> Cell:
    return Cell(
        None, "–", missing=run.missing.get(column.source, f"not in the {column.source} data of this run")
    )


def _present(column: Column, run: Measured, value: float, *, best: bool) -> Cell:
    error, outdated = _error(column, run), run.outdated.get(column.source)
    interval = column.interval(run)
    noise = "" if error is None else f" ± {column.show(error)}"
    if interval is not None:
        noise = f" [{' to '.join(map(column.show, interval))}]"
    dagger = "" if outdated is None else " †"
    return Cell(value, column.show(value) + noise + dagger, best=best, outdated=outdated)


def _quality() -> list[Column]:
    def speed(run: Measured) -> float | None:
        rates = [rate for _, rate in run.logged("tokens_per_second")]
        return statistics.median(rates) if rates else None

    def readings(run: Measured) -> Sequence[float] | None:
        rates = [rate for _, rate in run.logged("tokens_per_second")]
        return np.quantile(rates, [0.05, 0.95]).tolist() if rates else None

    column = partial(Column, group="Quality and cost")
    return [
        column(
            key="parameters", title="parameters", unit="", better=None, source="model", show=_count,
            of=lambda run: run.parameters,
        ),
        column(
            key="tokens", title="trained on", unit="tokens", better=None, source="training", show=_count,
            of=lambda run: run.last("tokens"),
        ),
        column(
            key="bits_per_byte", title="validation", unit="bits/byte", better="lower", source="training", show=_four,
            of=lambda run: run.last("bits_per_byte"),
        ),
        column(
            key="speed", title="speed", unit="tokens/s", better="higher", source="training", show=_whole, of=speed,
            interval=readings,
        ),
    ]  # fmt: skip


def _attention(length: str | None) -> list[Column]:
    def rows(*keys: str) -> Callable[[Measured], float | None]:
        return lambda run: run.get("sinks", "lengths", str(length), *keys)

    group = f"What attention does{_of_windows([] if length is None else [int(length)])}"
    column = partial(Column, group=group, source="sinks", length=length)
    return [
        column(
            key="sink_raw", title="sink rate, raw", unit=f"ε = {EPSILON}", better=None, show=_percent,
            of=rows("sink_rate", "raw", EPSILON),
        ),
        column(
            key="sink_renormalised", title="sink rate, renormalised", unit=f"ε = {EPSILON}", better="lower",
            show=_percent, of=rows("sink_rate", "renormalised", EPSILON),
        ),
        column(
            key="zeros", title="exact zeros", unit="of weights", better=None, show=_percent,
            of=rows("sparsity", "zeros"),
        ),
        column(key="entropy", title="entropy", unit="nats", better=None, show=_three, of=rows("entropy", "nats")),
        column(key="mass", title="mass", unit="Σ of a row", better=None, show=_three, of=rows("mass", "mean")),
        column(
            key="dead", title="dead heads", unit=f"|out| < {DEAD}", better="lower", show=_percent,
            of=rows("dead_heads", DEAD),
        ),
    ]  # fmt: skip


def _residual_stream(runs: Sequence[Measured]) -> list[Column]:
    def largest(run: Measured) -> float | None:
        ends = run.get("activations", "range") or {}
        return max((abs(ends[end]) for end in ("min", "max") if ends.get(end) is not None), default=None)

    protocols = [run.results["activations"]["protocol"] for run in runs if "activations" in run.results]
    lengths = [protocol["windows"]["length"] for protocol in protocols if "windows" in protocol]
    column = partial(
        Column,
        group=f"Residual stream{_of_windows(lengths)}",
        unit="all blocks",
        better="lower",
        source="activations",
        show=_three,
    )
    return [
        column(key="kurtosis", title="kurtosis", of=lambda run: run.get("activations", "kurtosis", "pooled")),
        column(key="largest", title="max |activation|", of=largest),
    ]


def _of_windows(lengths: Sequence[int]) -> str:
    """What a heading says of the lengths of windows."""
    if not lengths:
        return ""
    least, most = min(lengths), max(lengths)
    return f" (windows of {least if least == most else f'{least} to {most}'} tokens)"


def _robustness() -> list[Column]:
    def ratio(run: Measured, bits: int) -> float | None:
        return run.get("quantize", "bits", str(bits), "perplexity_ratio")

    def rounded_by_document(run: Measured, bits: int) -> Mapping[str, float] | None:
        return ratio_by_document(run.get("quantize", "bits", str(bits)) or {})

    def loss(run: Measured, times: int) -> float | None:
        return run.at_length(times).get("bits_per_byte")

    def by_document(run: Measured, times: int) -> Mapping[str, float] | None:
        return run.at_length(times).get("by_document")

    column = partial(Column, group="Robustness", better="lower")
    rounded = [
        column(
            key=f"ratio_{bits}", title=f"{bits} bit weights", unit="× perplexity", source="quantize", show=_thousandths,
            of=partial(ratio, bits=bits), parts=partial(rounded_by_document, bits=bits),
        )
        for bits in (4, 3, 2)
    ]  # fmt: skip
    longer = [
        column(
            key=f"bits_{times}x", title=f"at {times}× length", unit="bits/byte", source="lengths", show=_four,
            of=partial(loss, times=times), parts=partial(by_document, times=times),
        )
        for times in (1, 4, 16)
    ]  # fmt: skip
    return rounded + longer


def _harness(runs: Sequence[Measured]) -> list[Column]:
    def score(run: Measured, task: str, metric: str, entry: str) -> Any:
        return run.get("harness", "tasks", task, "metrics", metric, entry)

    def error(run: Measured, task: str, metric: str) -> float | None:
        """lm-eval's takes questions for independent, which those of the offline tasks are not."""
        return None if task in OFFLINE else score(run, task, metric, "stderr")

    found: dict[tuple[str, str], Column] = {}
    for run in runs:
        for task, metric in (run.get("harness", "headline") or {}).items():
            higher = run.get("harness", "tasks", task, "metrics", metric, "higher_is_better")
            chance = run.get("harness", "tasks", task, "chance")
            found[task, metric] = Column(
                key=f"{task}_{metric}",
                group="Harness tasks",
                title=task,
                unit=metric.replace("_", " ") + ("" if chance is None else f", chance {chance:g}"),
                better=None if higher is None else "higher" if higher else "lower",
                source="harness",
                show=_thousandths,
                of=partial(score, task=task, metric=metric, entry="value"),
                parts=partial(score, task=task, metric=metric, entry="parts"),
                error=partial(error, task=task, metric=metric),
            )
    return list(found.values())


def _others(runs: Sequence[Measured]) -> list[Column]:
    """What analyses show beyond the columns above, a table for each; `eval/display.py` has the convention."""
    found: dict[tuple[str, str], Column] = {}
    for name in sorted({name for run in runs for name in run.results}):
        if name in SHOWN and not hasattr(analysis.get(name).module, "numbers"):
            continue
        for run in runs:
            for title, number in _numbers(run, name).items():
                found.setdefault(
                    (name, title),
                    Column(
                        key=f"{name}_{title}",
                        group=name.capitalize(),
                        title=title,
                        unit=number.unit,
                        better=number.better,
                        source=name,
                        show=partial(_fixed, decimals=_decimals(runs, name, title, number.digits)),
                        of=partial(_exhibited, name=name, title=title, part="value"),
                        parts=partial(_exhibited, name=name, title=title, part="parts"),
                        error=partial(_exhibited, name=name, title=title, part="error"),
                        interval=partial(_exhibited, name=name, title=title, part="interval"),
                    ),
                )
    return list(found.values())


def _numbers(run: Measured, name: str) -> dict[str, Number]:
    """What an analysis shows of a run, by title."""
    if name not in run.results:
        return {}
    known, results = analysis.get(name), run.results[name]["results"]
    if hasattr(known.module, "numbers"):
        return {number.title: number for number in known.module.numbers(results)}
    row = known.row(results).items()
    return {title: Number(title, float(value)) for title, value in row if isinstance(value, int | float)}


def _decimals(runs: Sequence[Measured], name: str, title: str, digits: int) -> int:
    """Decimals with which the largest number of a column has so many significant digits; its noise gets as many."""
    values = [finite(_exhibited(run, name, title, "value")) for run in runs]
    largest = max((abs(value) for value in values if value), default=1.0)
    return max(0, digits - 1 - math.floor(math.log10(largest)))


def _exhibited(run: Measured, name: str, title: str, part: str) -> Any:
    return getattr(_numbers(run, name).get(title), part, None)


def finite(value: float | None) -> float | None:
    """The number; None where there is none, or it is not finite."""
    return value if value is not None and math.isfinite(value) else None


def _count(value: float) -> str:
    for size, suffix in ((1e9, "B"), (1e6, "M"), (1e3, "k")):
        if value >= size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.0f}"


def _whole(value: float) -> str:
    return f"{value:,.0f}"


def _three(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:#.3g}"


def _fixed(value: float, decimals: int) -> str:
    return f"{value:,.{decimals}f}"


def _thousandths(value: float) -> str:
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3f}"


def _four(value: float) -> str:
    return f"{value:.4f}"


def _percent(value: float) -> str:
    return f"{value:.1%}"
