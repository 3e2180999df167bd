"""Loss with fewer bits: weights, activations, KV cache and attention weights, against the model's own full precision.

Methods (`--methods`), each in a module of `eval/quantization` that has its formula and source:

    rtn              weights rounded to nearest
    hqq              weights on grids that the `hqq` library fits
    gptq             weights rounded one input at a time, the others making up for it; calibrated
    w8a8-dynamic     8-bit weights (one grid per output row) and 8-bit inputs of every linear layer, a step per token
    w8a8-static      the same with one calibrated step per layer
    cache            the keys and values that attention reads, on a grid per head and token
    probabilities    attention weights on a static grid per layer, with and without softmax bias correction; calibrated
    search           gptq with bits per matrix found by evolution under a budget; calibrated

Every `nn.Linear` inside the blocks is quantized; embeddings, norms and the output head are not. Weights share a grid in
groups of consecutive inputs of one output row. Calibration text is training text, never held-out text. The network is
restored bit for bit afterwards. Compare the deltas, not the losses: a model that starts worse ends worse.

Results: `Result` below; a key is there when its method was asked for.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import storage.codes
from common.errors import nearest
from eval.analysis import Analysis, Measurement
from eval.display import Column, Compared, Curve, Figure, Number, Shown, columns_of, thousandths
from eval.options import option
from eval.quantization import cache, hqq, probabilities, sizes
from eval.quantization.activations import largest_inputs, quantized_activations
from eval.quantization.methods import WeightQuantizer
from eval.quantization.result import Calibration, FullPrecision, Result, Rounded
from eval.quantization.rounding import round_to_nearest
from eval.quantization.scores import (
    CacheScore,
    ProbabilityScores,
    Score,
    Scorer,
    SearchScore,
    WeightScore,
    ratio_by_document,
)
from eval.quantization.search import search
from eval.quantization.weights import Quantized, other_matrices, weight_matrices
from eval.subjects.base import Subject
from eval.terminal import progress
from eval.windows import Windows, cut
from models import ModelError

ROUNDED = {
    "rtn": ("round to nearest", "Each weight at the nearest point of the grid of its group."),
    "gptq": ("GPTQ", "Weights rounded one input at a time, the others making up for it on calibration text."),
    "hqq": ("HQQ", "Weights on grids fitted without any text."),
}
"""Title and caption of each way to round weights."""

METHODS = ("rtn", "hqq", "gptq", "w8a8-dynamic", "w8a8-static", "cache", "probabilities", "search")
OF_ATTENTION = {"cache", "probabilities"}
"""Those that change attention instead of linear layers."""


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    methods: tuple[str, ...] = option(
        ("rtn", "gptq", "w8a8-static", "cache", "probabilities"), "what to measure", choices=METHODS
    )
    bits: tuple[int, ...] = option((8, 4, 3, 2), "per weight", unit="bits")
    group: int = option(64, "consecutive weights of a row that share step and zero")
    length: int | None = option(None, "length of a window", unit="tokens", unset="the training length")
    longest: int = option(1024, "but by default no more than this", unit="tokens")
    sequences: int = option(16, "held-out windows to score")
    calibration: int = option(32, "windows of training text to calibrate on")
    damping: float = option(0.01, "of gptq", unit="means of the Hessian's diagonal")
    attention_bits: tuple[int, ...] = option((8, 4), "of cache and probabilities", unit="bits")
    search_bits: int = option(3, "mean width of the search", unit="bits per weight")
    search_levels: tuple[int, ...] = option((2, 3, 4), "widths that the search may choose", unit="bits")
    generations: int = option(20, "of the search")
    offspring: int = option(16, "of each generation of the search")
    seed: int = option(0, "of the search")

    def __post_init__(self) -> None:
        for method in self.methods:
            if method not in METHODS:
                raise ModelError(f"unknown method {method!r}{nearest(method, METHODS)}")
        most = storage.codes.MOST_BITS
        widths = (*self.bits, *self.attention_bits, *self.search_levels, self.search_bits)
        if self.group < 1 or any(not 1 <= bits <= most for bits in widths):
            raise ModelError(f"quantize needs a group of at least one weight and 1 to {most} bits")
        if (self.length is not None and self.length < 2) or min(self.sequences, self.calibration) < 1:
            raise ModelError("quantize needs windows of at least 2 tokens, and at least one of them")
        if self.damping < 0 or self.generations < 0 or self.offspring < 1:
            raise ModelError(
                "quantize needs a damping and generations of at least 0, and at least one offspring"
            )
        if "hqq" in self.methods:
            hqq.check(self.bits)


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    study = Study(subject, settings)
    wanted = [name for name in METHODS if name in settings.methods]
    for method in progress(wanted, f"quantize {subject.name}"):
        try:
            MEASURES[method](study)
        except ModelError as refusal:
            raise ModelError(f"{method} of {subject.name}: {refusal}; --methods chooses others") from refusal
    text = study.protocol.get("calibration")
    calibration = None if text is None else Calibration(text["windows"], text["tokens"])
    coverage = subject.coverage if OF_ATTENTION & set(wanted) else None
    return Measurement(Result(**study.results, calibration=calibration, coverage=coverage), study.protocol)


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table: what each method adds to the loss."""
    return {
        "loss": result.full_precision.loss,
        "bpb": result.full_precision.bits_per_byte,
        **{f"+{title}": score.delta_loss for title, score in result.scores().items()},
    }


def notes(result: Result) -> list[str]:
    """The layers whose attention keeps full precision, and the matrices that do."""
    found = [
        f"cache and probabilities: {note}" for note in (result.coverage.notes if result.coverage else [])
    ]
    for module, count in (result.rounded.left or {}).items():
        found.append(f"{count:,} parameters of {module} are no linear layer and stay in full precision")
    return found


def columns(runs: Sequence[Shown[Result]]) -> list[Column[Result]]:
    """Rounding to nearest among what says how robust a run is; every other method by itself."""

    def score(result: Result, bits: int) -> WeightScore | None:
        return result.rounded_by("rtn").get(str(bits))

    def ratio(result: Result, bits: int) -> float | None:
        found = score(result, bits)
        return None if found is None else found.perplexity_ratio

    def by_document(result: Result, bits: int) -> Mapping[str, float] | None:
        found = score(result, bits)
        return None if found is None else ratio_by_document(found)

    rounded = [
        Column(
            key=f"ratio_{bits}", group="Robustness", title=f"{bits} bit weights", unit="× perplexity", better="lower",
            show=thousandths, value=partial(ratio, bits=bits), parts=partial(by_document, bits=bits),
            headline=bits == 3, meaning="Perplexity with weights rounded to so few bits, over that without.",
        )
        for bits in (4, 3, 2)
    ]  # fmt: skip
    return rounded + columns_of(runs, numbers, "Quantize")


def numbers(result: Result) -> list[Number]:
    """Every method but rounding to nearest, and what was calibrated on."""
    text = result.calibration
    calibrated = [] if text is None else [Number("calibrated on", text.tokens, "tokens", digits=1)]
    return calibrated + [
        Number(title, score.perplexity_ratio, "× perplexity", "lower", 4, parts=ratio_by_document(score))
        for title, score in result.scores().items()
        if not title.startswith("rtn ")
    ]


def sentences(compared: Mapping[str, Compared]) -> Iterator[str]:
    """The range of the runs with three bits."""
    yield from compared["ratio_3"].ranging("With weights rounded to 3 bits, the factor on perplexity")


def figures(runs: Sequence[Shown[Result]]) -> list[Figure]:
    """Loss with fewer bits against each run's own at full precision: a figure for each method that was measured."""
    measured = [method for method in ROUNDED if method == "rtn" or _widths(runs, method)]
    return [
        *(_by_bits(runs, method) for method in measured),
        *([_by_part(runs)] if any(_parts(run.results) for run in runs) else []),
        _weight_errors(runs),
    ]


def _by_bits(runs: Sequence[Shown[Result]], method: str) -> Figure:
    """Loss ratio of one method of rounding weights, a curve for each run."""
    title, what = ROUNDED[method]
    if method == "gptq":
        what += _calibrated(runs)
    widths = _widths(runs, method)
    return Figure(
        f"Loss with rounded weights: {title}",
        f"{what} The loss divided by the run's own at full precision: 1 is no harm.",
        _over_bits(runs, method, lambda score: score.loss_ratio, widths), "bits per weight", "loss ratio",
        ticks=[(place, str(bits)) for place, bits in enumerate(widths)],
    )  # fmt: skip


def _by_part(runs: Sequence[Shown[Result]]) -> Figure:
    """Loss ratios with fewer bits elsewhere than in weights alone: a place for each part and width."""
    ratios = [(run, _parts(run.results)) for run in runs]
    names = dict.fromkeys(name for _, found in ratios for name in found)
    places = {name: place for place, name in enumerate(names)}
    # A gap after each point, since nothing lies between two parts.
    points = [
        Curve(
            run.name,
            run.place,
            [places[name] + shift for name in found for shift in (0, 0.5)],
            [value for ratio in found.values() for value in (ratio, None)],
        )
        for run, found in ratios
        if found
    ]
    return Figure(
        "Loss with fewer bits in activations, cache and attention",
        "W8A8: weights and the inputs of linear layers in 8 bits, with a step per token (dynamic) or a calibrated one "
        "(static). cache: keys and values. prob.: weights of attention on a calibrated grid; corr.: the same with what "
        f"rounding takes off added back.{_calibrated(runs)} The loss divided by the run's own at full precision.",
        points, "part, bits", "loss ratio", ticks=[(place, name) for name, place in places.items()] or None,
    )  # fmt: skip


def _weight_errors(runs: Sequence[Shown[Result]]) -> Figure:
    widths = _widths(runs, "rtn")
    return Figure(
        "Error of the rounded weights",
        "Relative norm of what rounding to nearest changed. A run that loses more at the same error is more fragile.",
        _over_bits(runs, "rtn", lambda score: score.weight_error, widths), "bits per weight", "‖change‖ / ‖weights‖",
        log_y=True, ticks=[(place, str(bits)) for place, bits in enumerate(widths)],
    )  # fmt: skip


def _calibrated(runs: Sequence[Shown[Result]]) -> str:
    """A sentence on how much text was calibrated on."""
    tokens = {run.results.calibration.tokens for run in runs if run.results.calibration}
    sizes = " or ".join(f"{count:,}" for count in sorted(tokens))
    return f" Calibrated on {sizes} tokens of training text." if sizes else ""


def _widths(runs: Sequence[Shown[Result]], method: str) -> list[int]:
    """The bits at which some run was measured, the most first."""
    return sorted({int(bits) for run in runs for bits in run.results.rounded_by(method)}, reverse=True)


def _over_bits(
    runs: Sequence[Shown[Result]],
    method: str,
    number: Callable[[WeightScore], float],
    widths: Sequence[int],
) -> list[Curve]:
    """A number over the bits, a curve for each run that was measured."""
    found = []
    for run in runs:
        scores = run.results.rounded_by(method)
        points = [(x, number(scores[str(bits)])) for x, bits in enumerate(widths) if str(bits) in scores]
        if points:
            found.append(Curve(run.name, run.place, [x for x, _ in points], [y for _, y in points]))
    return found


def _parts(result: Result) -> dict[str, float]:
    """Loss ratios of what is no matter of weights alone, by a short name of the part."""
    found: dict[str, Score] = {f"W8A8\n{kind}": score for kind, score in (result.w8a8 or {}).items()}
    found |= {f"cache\n{bits}": score for bits, score in (result.cache or {}).items()}
    for bits, pair in (result.probabilities or {}).items():
        found |= {f"prob.\n{bits}": pair.plain, f"corr.\n{bits}": pair.corrected}
    return {name: score.loss_ratio for name, score in found.items()}


class Study:
    """One subject, its text, and the results so far; each method of measuring adds its own."""

    def __init__(self, subject: Subject, settings: Settings) -> None:
        matrices = weight_matrices(subject.blocks)
        if not matrices:
            raise ModelError(f"{subject.name} has no linear layers to round in its blocks")
        self.subject, self.settings = subject, settings
        length = settings.length or min(subject.train_length, settings.longest)
        windows = cut(subject, length, settings.sequences)
        self.scorer = Scorer(subject, windows)
        self.quantizer = WeightQuantizer(
            subject, settings.group, length, settings.calibration, settings.damping
        )
        count = sum(matrix.numel() for matrix in matrices.values())
        share = count / sum(parameter.numel() for parameter in subject.network.parameters())
        self.protocol: dict[str, Any] = {"windows": windows.protocol}
        self.results: dict[str, Any] = {
            "full_precision": FullPrecision(**vars(self.scorer.full_precision), bytes=sizes.stored(subject)),
            "rounded": Rounded(len(matrices), count, share, other_matrices(subject.blocks) or None),
        }

    @property
    def calibration(self) -> Windows:
        """Windows of training text."""
        self.protocol["calibration"] = self.quantizer.text.protocol
        return self.quantizer.text

    def weights(self, method: str) -> None:
        """Weights at every width; rtn under the key "bits"."""
        scores = {str(bits): self._score(self._quantized(method, bits)) for bits in self.settings.bits}
        self.results["bits" if method == "rtn" else method] = scores

    def activations(self, kind: str) -> None:
        """8-bit weights and activations with static or dynamic steps."""
        largest = largest_inputs(self.subject, self.calibration) if kind == "static" else None
        rows = {
            name: round_to_nearest(matrix, 8, matrix.shape[1])
            for name, matrix in weight_matrices(self.subject.blocks).items()
        }
        with quantized_activations(self.subject, 8, largest):
            self.results.setdefault("w8a8", {})[kind] = self._score(rows)

    def cache(self) -> None:
        """A KV cache at every width."""
        self.results["cache"] = {}
        for bits in self.settings.attention_bits:
            quantized = cache.QuantizedCache(bits)
            with self.subject.trace(attention=quantized.attention):
                score = self.scorer.score()
            self.results["cache"][str(bits)] = CacheScore(
                **vars(score), bytes_per_token=quantized.bytes_per_token
            )

    def probabilities(self) -> None:
        """Attention weights at every width, with and without bias correction."""
        self.results["probabilities"] = {}
        ranges = probabilities.ranges(self.subject, self.calibration)
        masses = probabilities.mass(self.subject, self.calibration, ranges, self.settings.attention_bits)
        for bits, mass in masses.items():
            scores = {}
            for name, correction in (("plain", None), ("corrected", mass)):
                attend = partial(probabilities.attention, bits=bits, found=ranges, correction=correction)
                with self.subject.trace(attention=attend):
                    scores[name] = self.scorer.score()
            self.results["probabilities"][str(bits)] = ProbabilityScores(
                **scores, mass=mass.mean, lost=mass.mean_lost, lost_by_row=mass.lost_by_row.tolist()
            )

    def search(self) -> None:
        """Widths found by gptq's error, beside the same width everywhere."""
        settings = self.settings
        database = {bits: self._quantized("gptq", bits) for bits in settings.search_levels}
        found = search(
            self.subject,
            self.calibration,
            database,
            settings.search_bits,
            generations=settings.generations,
            offspring=settings.offspring,
            seed=settings.seed,
        )
        chosen = {name: database[bits][name] for name, bits in found.widths.items()}
        self.results["search"] = {
            str(settings.search_bits): SearchScore(
                **vars(self._score(chosen)),
                uniform=self._score(database[settings.search_bits]),
                widths=found.widths,
                divergence=found.divergence,
            )
        }

    def _score(self, quantized: Quantized) -> WeightScore:
        return self.scorer.score_weights(quantized, sizes.packed(self.subject, quantized))

    def _quantized(self, method: str, bits: int) -> Quantized:
        if method == "gptq":
            self.protocol["calibration"] = self.quantizer.text.protocol
        return self.quantizer.quantize(method, bits)


MEASURES: dict[str, Callable[[Study], None]] = {
    "rtn": lambda study: study.weights("rtn"),
    "hqq": lambda study: study.weights("hqq"),
    "gptq": lambda study: study.weights("gptq"),
    "w8a8-dynamic": lambda study: study.activations("dynamic"),
    "w8a8-static": lambda study: study.activations("static"),
    "cache": Study.cache,
    "probabilities": Study.probabilities,
    "search": Study.search,
}


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    notes=notes,
    heading="Quantisation",
    order=30,
    columns=columns,
    figures=figures,
    sentences=sentences,
)
