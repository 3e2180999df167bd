"""The curves and head grids of the report, drawn from what the runs have left."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from markupsafe import Markup

from eval import analysis
from eval.display import Plot
from eval.drawing import figures
from eval.drawing.figures import Curve
from eval.report.comparison import EPSILON, Measured, sink_length

ROUNDED = {
    "bits": ("round to nearest", "Each weight at the nearest point of the grid of its group."),
    "gptq": ("GPTQ", "Weights rounded one input at a time, the others making up for it on calibration text."),
    "hqq": ("HQQ", "Weights on grids fitted without any text."),
}
"""Title and caption of each way to round weights, by its key in the results of quantize."""

POINTS = 400
"""Points that a training curve keeps; longer logs are thinned evenly."""


@dataclass(frozen=True)
class Drawing:
    """A figure of the page, over its full width if `wide`; `svg` is None where no run has its data."""

    title: str
    caption: str
    svg: Markup | None
    wide: bool = False


def training(runs: Sequence[Measured]) -> list[Drawing]:
    """Loss over steps."""
    faint = [
        line for place, run in enumerate(runs) for line in _log(None, place, run.logged("loss"), faint=True)
    ]
    held_out = [
        line
        for place, run in enumerate(runs)
        for line in _log(run.name, place, run.logged("validation_loss"))
    ]
    bits = [
        line
        for place, run in enumerate(runs)
        for line in _log(
            run.name, place, [(step, value) for step, value in run.logged("bits_per_byte") if step > 0]
        )
    ]
    return [
        _draw(
            "Loss",
            "Nats per token. Pale: training, as logged, each on its own batch. With markers: held-out text.",
            faint + held_out, runs, "training", x="step", y="nats per token",
        ),
        _draw(
            "Bits per byte on held-out text",
            "The loss in bits, divided by the bytes of the text: independent of the tokenizer. "
            "The untrained model (step 0) is left out.",
            bits, runs, "training", x="step", y="bits per byte",
        ),
    ]  # fmt: skip


def attention(runs: Sequence[Measured]) -> list[Drawing]:
    """Sinks, kurtosis, activations and mass, by layer or position, and the sink rate of each head."""
    length = sink_length(runs)
    heads = ("sinks", "lengths", str(length), "heads", "sink_rate")
    raw = _by_layer(runs, lambda run: _means(run.get(*heads, "raw", EPSILON)))
    scaled = _by_layer(runs, lambda run: _means(run.get(*heads, "renormalised", EPSILON)), dashed=True)
    kurtosis = _by_layer(runs, lambda run: run.get("activations", "kurtosis", "layers"))
    tops = _by_layer(runs, lambda run: [top[0] for top in run.get("activations", "massive", "top") or []])
    mass = [
        Curve(run.name, place, entry["positions"], entry["mean_at"], band=(entry["p5_at"], entry["p95_at"]))
        for place, run in enumerate(runs)
        if (entry := run.get("sinks", "lengths", str(length), "mass"))
    ]
    share = f"Share of (sequence, head) whose first token gets more than {EPSILON} of the weight on average"
    drawings = [
        _draw(
            "Sink rate by layer",
            f"{share}; windows of {length} tokens. Solid: raw weights. Dashed: rows renormalised to sum to one.",
            raw + scaled, runs, "sinks", x="layer", y="sink rate", from_zero=True, ticks=_layer_ticks(raw),
        ),
        _draw(
            "Kurtosis by layer",
            "Of the residual stream after each block; 3 for a Gaussian, large where few dimensions stand out.",
            kurtosis, runs, "activations", x="layer", y="kurtosis", log_y=True, ticks=_layer_ticks(kurtosis),
        ),
        _draw(
            "Largest activation by layer",
            "Largest |x| of the residual stream after each block, averaged over sequences.",
            tops, runs, "activations", x="layer", y="max |x|", log_y=True, ticks=_layer_ticks(tops),
        ),
        _draw(
            "Mass by position",
            "Sum of a row's weights: mean over heads and sequences, and the 5th to 95th percentile. "
            "Where rows may sum to less than one, a head can attend to nothing without a sink.",
            mass, runs, "sinks", x="position", y="sum of weights", log_x=2, from_zero=True,
        ),
    ]  # fmt: skip
    grids = [(run.name, grid) for run in runs if (grid := run.get(*heads, "renormalised", EPSILON))]
    caption = (
        f"{share}, by layer and head; rows renormalised, windows of {length} tokens, one scale for all runs."
    )
    if grids:
        figure = figures.head_grids(grids, f"sink rate (renormalised, ε = {EPSILON})")
        drawings.append(
            Drawing(
                "Sink rate of each head",
                caption,
                Markup(figures.svg(figure, "head-grids", "Sink rate of each head")),
                wide=True,
            )
        )
    return drawings


def quantisation(runs: Sequence[Measured]) -> list[Drawing]:
    """Loss with fewer bits against each run's own at full precision: a figure for each method that was measured."""
    measured = [key for key in ROUNDED if key == "bits" or _widths(runs, key)]
    return [
        *(_by_bits(runs, key) for key in measured),
        *([_by_part(runs)] if any(map(_parts, runs)) else []),
        _weight_errors(runs),
    ]


def _by_bits(runs: Sequence[Measured], key: str) -> Drawing:
    """Loss ratio of one method of rounding weights, a curve for each run."""
    title, what = ROUNDED[key]
    if key == "gptq":
        what += _calibration(runs)
    widths = _widths(runs, key)
    return _draw(
        f"Loss with rounded weights: {title}",
        f"{what} The loss divided by the run's own at full precision: 1 is no harm.",
        _rounded(runs, key, "loss_ratio", widths), runs, "quantize", x="bits per weight", y="loss ratio",
        ticks=_width_ticks(widths),
    )  # fmt: skip


def _by_part(runs: Sequence[Measured]) -> Drawing:
    """Loss ratios with fewer bits elsewhere than in weights alone: a place for each part and width."""
    ratios = [_parts(run) for run in runs]
    places = {
        name: place for place, name in enumerate(dict.fromkeys(name for found in ratios for name in found))
    }
    # A gap after each point, since nothing lies between two parts.
    points = [
        Curve(
            run.name,
            place,
            [places[name] + shift for name in found for shift in (0, 0.5)],
            [value for ratio in found.values() for value in (ratio, None)],
        )
        for place, (run, found) in enumerate(zip(runs, ratios, strict=True))
        if found
    ]
    return _draw(
        "Loss with fewer bits in activations, cache and attention",
        "W8A8: weights and the inputs of linear layers in 8 bits, with a step per token (dynamic) or a calibrated one "
        "(static). cache: keys and values. prob.: weights of attention on a calibrated grid; corr.: the same with what "
        f"rounding takes off added back.{_calibration(runs)} The loss divided by the run's own at full precision.",
        points, runs, "quantize", x="part, bits", y="loss ratio",
        ticks=[(place, name) for name, place in places.items()] or None,
    )  # fmt: skip


def _weight_errors(runs: Sequence[Measured]) -> Drawing:
    widths = _widths(runs, "bits")
    return _draw(
        "Error of the rounded weights",
        "Relative norm of what rounding to nearest changed. A run that loses more at the same error is more fragile.",
        _rounded(runs, "bits", "weight_error", widths), runs, "quantize", x="bits per weight",
        y="‖change‖ / ‖weights‖", log_y=True, ticks=_width_ticks(widths),
    )  # fmt: skip


def _calibration(runs: Sequence[Measured]) -> str:
    """How much text was calibrated on, in a sentence."""
    tokens = {run.get("quantize", "calibration", "tokens") for run in runs} - {None}
    sizes = " or ".join(f"{count:,}" for count in sorted(tokens))
    return f" Calibrated on {sizes} tokens of training text." if sizes else ""


def _widths(runs: Sequence[Measured], key: str) -> list[int]:
    """The bits at which some run was measured, the most first."""
    return sorted({int(bits) for run in runs for bits in run.get("quantize", key) or {}}, reverse=True)


def _width_ticks(widths: Sequence[int]) -> list[tuple[float, str]]:
    return [(place, str(bits)) for place, bits in enumerate(widths)]


def _rounded(runs: Sequence[Measured], key: str, number: str, widths: Sequence[int]) -> list[Curve]:
    """A number over the bits, a curve for each run that was measured."""
    found = []
    for place, run in enumerate(runs):
        entries = run.get("quantize", key) or {}
        points = [
            (x, entries[str(bits)].get(number)) for x, bits in enumerate(widths) if str(bits) in entries
        ]
        if any(y is not None for _, y in points):
            found.append(Curve(run.name, place, [x for x, _ in points], [y for _, y in points]))
    return found


def _parts(run: Measured) -> dict[str, float]:
    """Loss ratios of what is no matter of weights alone, by a short name of the part."""
    found = {f"W8A8\n{kind}": score for kind, score in (run.get("quantize", "w8a8") or {}).items()}
    found |= {f"cache\n{bits}": score for bits, score in (run.get("quantize", "cache") or {}).items()}
    for bits, pair in (run.get("quantize", "probabilities") or {}).items():
        found |= {f"prob.\n{bits}": pair["plain"], f"corr.\n{bits}": pair["corrected"]}
    return {name: score["loss_ratio"] for name, score in found.items()}


def exhibited(runs: Sequence[Measured]) -> dict[str, list[Drawing]]:
    """The plots that analyses define themselves, by analysis; `eval/display.py` has the convention."""
    found: dict[str, list[Drawing]] = {}
    for name, known in analysis.analyses().items():
        if hasattr(known.module, "plots"):
            by_title: dict[str, dict[int, Plot]] = {}
            for place, run in enumerate(runs):
                if name in run.results:
                    for plot in known.module.plots(run.results[name]["results"]):
                        by_title.setdefault(plot.title, {})[place] = plot
            if by_title:
                found[name] = [_exhibit(plots, runs, name) for plots in by_title.values()]
    return found


def _exhibit(plots: Mapping[int, Plot], runs: Sequence[Measured], source: str) -> Drawing:
    """Plots of one title in one figure, by place of the run."""
    lines = [
        Curve(None if index else runs[place].name, place, line.x, line.y, dashed=index > 0)
        for place, plot in plots.items()
        for index, line in enumerate(plot.lines)
        if line.x
    ]
    first = next(iter(plots.values()))
    marks = {plot.mark for plot in plots.values()}
    places = sorted({x for line in lines for x in line.x}) if first.ticks else []
    return _draw(
        first.title, first.caption, lines, runs, source, x=first.x, y=first.y, log_x=first.log_x, log_y=first.log_y,
        ticks=[(x, f"{x:,g}") for x in places] or None, mark=marks.pop() if len(marks) == 1 else None,
    )  # fmt: skip


def _draw(
    title: str, caption: str, lines: Sequence[Curve], runs: Sequence[Measured], source: str, **axes: Any
) -> Drawing:
    absent: dict[str, list[str]] = {}
    for run in runs:
        if source in run.missing:
            absent.setdefault(run.missing[source], []).append(run.name)
    if absent:
        listed = "; ".join(f"{', '.join(names)}: {reason}" for reason, names in absent.items())
        caption = f"{caption} Missing: {listed}."
    name = "".join(letter if letter.isalnum() else "-" for letter in title.lower())
    return Drawing(
        title, caption, Markup(figures.svg(figures.curves(lines, **axes), name, title)) if lines else None
    )


def _log(
    label: str | None, place: int, points: Sequence[tuple[int, float]], faint: bool = False
) -> list[Curve]:
    """The curve of a training log, thinned; none if nothing was logged."""
    every = max(1, -(-len(points) // POINTS))
    kept = [*points[:-1:every], *points[-1:]]
    return [Curve(label, place, [x for x, _ in kept], [y for _, y in kept], faint=faint)] if kept else []


def _by_layer(
    runs: Sequence[Measured], of: Callable[[Measured], Sequence[float | None] | None], dashed: bool = False
) -> list[Curve]:
    """A curve over the layers of each run that has values; a dashed one stands without a legend."""
    found = ((place, run, of(run)) for place, run in enumerate(runs))
    return [
        Curve(None if dashed else run.name, place, range(len(values)), values, dashed=dashed)
        for place, run, values in found
        if values
    ]


def _layer_ticks(lines: Sequence[Curve]) -> list[tuple[float, str]] | None:
    depth = max((len(line.x) for line in lines), default=0)
    return [(layer, str(layer)) for layer in range(0, depth, max(1, -(-depth // 12)))] or None


def _means(layers: Iterable[Sequence[float | None]] | None) -> list[float | None]:
    """Mean over the heads of each layer, leaving out heads without a number."""
    known = [[value for value in layer if value is not None] for layer in layers or []]
    return [sum(values) / len(values) if values else None for values in known]
