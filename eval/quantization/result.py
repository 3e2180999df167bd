"""The results of `python -m eval quantize`: scores by method and width, and what they cover."""

from collections.abc import Mapping
from dataclasses import dataclass

from eval.quantization.scores import CacheScore, Level, ProbabilityScores, Score, SearchScore, WeightScore
from eval.subjects.coverage import Coverage


@dataclass(frozen=True, kw_only=True)
class FullPrecision(Level):
    """The model as it is, with the bytes of its checkpoint's files."""

    bytes: int


@dataclass(frozen=True)
class Rounded:
    """The rounded matrices, their parameters, and their share of all parameters.

    `left` are parameters of other matrices in the blocks, by the class of their module; None where there are none.
    """

    matrices: int
    parameters: int
    share: float
    left: Mapping[str, int] | None = None


@dataclass(frozen=True)
class Calibration:
    """The training text that was calibrated on."""

    windows: int
    tokens: int


@dataclass(frozen=True)
class Result:
    """The scores by method and width; `bits` are those of rtn, `w8a8` those by kind of steps.

    `coverage` are the layers whose attention `cache` and `probabilities` changed; older results do not say: all.
    """

    full_precision: FullPrecision
    rounded: Rounded
    bits: Mapping[str, WeightScore] | None = None
    hqq: Mapping[str, WeightScore] | None = None
    gptq: Mapping[str, WeightScore] | None = None
    w8a8: Mapping[str, WeightScore] | None = None
    cache: Mapping[str, CacheScore] | None = None
    probabilities: Mapping[str, ProbabilityScores] | None = None
    search: Mapping[str, SearchScore] | None = None
    calibration: Calibration | None = None
    coverage: Coverage | None = None

    def rounded_by(self, method: str) -> Mapping[str, WeightScore]:
        """The scores of a way to round weights, by bits; none where it was not measured."""
        found = {"rtn": self.bits, "gptq": self.gptq, "hqq": self.hqq}[method]
        return found or {}

    def scores(self) -> dict[str, Score]:
        """Every score, by method and bits."""
        by_method: dict[str, Mapping[str, Score] | None] = {
            "rtn": self.bits,
            "hqq": self.hqq,
            "gptq": self.gptq,
            "search": self.search,
            "w8a8": self.w8a8,
            "cache": self.cache,
        }
        found = {
            f"{method} {which}": score
            for method, scores in by_method.items()
            for which, score in (scores or {}).items()
        }
        for bits, pair in (self.probabilities or {}).items():
            found |= {f"probabilities {bits}": pair.plain, f"corrected {bits}": pair.corrected}
        return found
