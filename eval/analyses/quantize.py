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

Results; a key is there when its method was asked for. SCORE has the fields of full_precision and

    "delta_loss": 0.02, "loss_ratio": 1.01, "perplexity_ratio": 1.02          against full_precision
    "by_document": {"3": 0.021, "7": 0.018, ...}      what each document of the text contributes to delta_loss, which
                            is their mean (`eval.intervals.contributions`)
    "interval": 0.004       half of the 95 % interval of delta_loss over documents, by Student's t (null where they do
                            not say how they spread: a single one, or no loss changed)

and WEIGHTS is SCORE with

    "weight_error": 0.08                ||W_q - W|| / ||W|| over all quantized weights
    "bytes": 1234567                    of all weights on disk: codes, steps and zeros packed, the rest as it is; of a
                                        run exactly those of the file that python -m eval.quantization writes
    "bits_per_weight": 4.56             of the quantized matrices, steps and zeros included

    {
      "full_precision": {"loss": 1.83, "bits_per_byte": 1.21, "perplexity": 6.2,         loss in nats per token
                         "bytes": 5234567},                                            of the checkpoint's files
      "bits": {"4": WEIGHTS, ...},                                    rtn, by bits
      "hqq": {"4": WEIGHTS, ...}, "gptq": {"4": WEIGHTS, ...},
      "w8a8": {"dynamic": SCORE, "static": SCORE},                    weight_error, bytes and bits_per_weight, too
      "cache": {"8": {SCORE, "bytes_per_token": 1234.0}, ...},        of all layers together
      "probabilities": {"8": {"plain": SCORE, "corrected": SCORE,
                              "mass": 1.0, "lost": 0.12,              mean sum of a row, and what rounding takes off,
                              "lost_by_row": [0.0, 0.001, ...]},      of the rows of a window, the first first
                        ...},
      "search": {"3": WEIGHTS and "uniform": WEIGHTS, "widths": {"0.attention.query": 4, ...},
                 "divergence": [0.21, 0.20, ...]}                     KL on calibration text after every generation
      "rounded": {"matrices": 24, "parameters": 786432, "share": 0.75},                  share of all parameters
      "calibration": {"windows": 32, "tokens": 8192}
    }
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import storage.codes
from attention import nearest
from eval.analysis import progress
from eval.display import Number
from eval.quantization import cache, hqq, probabilities, sizes
from eval.quantization.activations import largest_inputs, quantized_activations
from eval.quantization.methods import WeightQuantizer
from eval.quantization.rounding import round_to_nearest
from eval.quantization.scores import Scorer, ratio_by_document
from eval.quantization.search import search
from eval.quantization.weights import Quantized, weight_matrices
from eval.subjects.subject import Subject
from eval.windows import Windows, cut
from models import ModelError

METHODS = ("rtn", "hqq", "gptq", "w8a8-dynamic", "w8a8-static", "cache", "probabilities", "search")


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    methods: tuple[str, ...] = field(
        default=("rtn", "gptq", "w8a8-static", "cache", "probabilities"),
        metadata={"help": ", ".join(METHODS)},
    )
    bits: tuple[int, ...] = field(default=(8, 4, 3, 2), metadata={"help": "bits per weight"})
    group: int = field(default=64, metadata={"help": "consecutive weights of a row that share step and zero"})
    length: int | None = field(
        default=None, metadata={"help": "tokens per window, by default the training length"}
    )
    longest: int = field(default=1024, metadata={"help": "but by default no more than this"})
    sequences: int = field(default=16, metadata={"help": "held-out windows to score"})
    calibration: int = field(default=32, metadata={"help": "windows of training text to calibrate on"})
    damping: float = field(default=0.01, metadata={"help": "of gptq, in means of the Hessian's diagonal"})
    attention_bits: tuple[int, ...] = field(
        default=(8, 4), metadata={"help": "bits of cache and probabilities"}
    )
    search_bits: int = field(default=3, metadata={"help": "mean bits per weight of the search"})
    search_levels: tuple[int, ...] = field(default=(2, 3, 4), metadata={"help": "widths it may choose"})
    generations: int = field(default=20, metadata={"help": "of the search"})
    offspring: int = field(default=16, metadata={"help": "of each generation"})
    seed: int = field(default=0, metadata={"help": "of the search"})

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


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    study = Study(subject, settings)
    wanted = [name for name in METHODS if name in settings.methods]
    for method in progress(wanted, f"quantize {subject.name}"):
        try:
            MEASURES[method](study)
        except ModelError as refusal:
            raise ModelError(f"{method} of {subject.name}: {refusal}; --methods chooses others") from refusal
    if "calibration" in study.protocol:
        study.results["calibration"] = {
            name: study.protocol["calibration"][name] for name in ("windows", "tokens")
        }
    return {"protocol": study.protocol, "results": study.results}


def scores(results: Mapping[str, Any]) -> dict[str, dict[str, Any]]:
    """Every SCORE of one subject, by method and bits."""
    found: dict[str, dict[str, Any]] = {}
    for key, title in (
        ("bits", "rtn"),
        ("hqq", "hqq"),
        ("gptq", "gptq"),
        ("search", "search"),
        ("w8a8", "w8a8"),
    ):
        found |= {f"{title} {which}": score for which, score in results.get(key, {}).items()}
    found |= {f"cache {bits}": score for bits, score in results.get("cache", {}).items()}
    for bits, pair in results.get("probabilities", {}).items():
        found |= {f"probabilities {bits}": pair["plain"], f"corrected {bits}": pair["corrected"]}
    return found


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table: what each method adds to the loss."""
    return {
        "loss": results["full_precision"]["loss"],
        "bpb": results["full_precision"]["bits_per_byte"],
        **{f"+{title}": score["delta_loss"] for title, score in scores(results).items()},
    }


def numbers(results: Mapping[str, Any]) -> list[Number]:
    """A column of the report for each method but rtn, which it shows anyway, and what was calibrated on."""
    text = results.get("calibration")
    calibrated = [] if text is None else [Number("calibrated on", text["tokens"], "tokens", digits=1)]
    return calibrated + [
        Number(title, score["perplexity_ratio"], "× perplexity", "lower", 4, parts=ratio_by_document(score))
        for title, score in scores(results).items()
        if not title.startswith("rtn ")
    ]


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
            "full_precision": self.scorer.full_precision | {"bytes": sizes.stored(subject)},
            "rounded": {"matrices": len(matrices), "parameters": count, "share": share},
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
            self.results["cache"][str(bits)] = score | {"bytes_per_token": quantized.bytes_per_token}

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
            self.results["probabilities"][str(bits)] = {
                **scores,
                "mass": mass.mean,
                "lost": mass.mean_lost,
                "lost_by_row": mass.lost_by_row,
            }

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
            str(settings.search_bits): self._score(chosen)
            | {
                "uniform": self._score(database[settings.search_bits]),
                "widths": found.widths,
                "divergence": found.divergence,
            }
        }

    def _score(self, quantized: Quantized) -> dict[str, Any]:
        return self.scorer.score_weights(quantized) | {"bytes": sizes.packed(self.subject, quantized)}

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
