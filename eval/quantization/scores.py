"""Loss of a network whose computation was changed, beside its own in full precision, on the same windows."""

import math
from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from eval.intervals import contributions, student
from eval.quantization.weights import Quantized, replaced, weight_matrices
from eval.subjects.base import Subject
from eval.windows import Windows, targets


@dataclass(frozen=True, kw_only=True)
class Level:
    """The quality of a network's predictions; loss in nats per token."""

    loss: float
    bits_per_byte: float
    perplexity: float | None


@dataclass(frozen=True, kw_only=True)
class Score(Level):
    """A changed network, beside itself in full precision.

    Attributes:
        delta_loss, loss_ratio, perplexity_ratio: against full precision.
        interval: half of the 95 % interval of `delta_loss` over documents, by Student's t; None where they do not say
            how they spread (a single one, or no loss changed).
        by_document: what each document of the text contributes to `delta_loss`, which is their mean
            (`eval.intervals.contributions`).
    """

    delta_loss: float
    loss_ratio: float
    perplexity_ratio: float | None
    interval: float | None
    by_document: Mapping[str, float] | None = None


@dataclass(frozen=True, kw_only=True)
class WeightScore(Score):
    """A network with quantized weights.

    Attributes:
        weight_error: ||W_q - W|| / ||W|| over all quantized weights.
        bits_per_weight: of the quantized matrices, steps and zeros included.
        bytes: of all weights on disk: codes, steps and zeros packed, the rest as it is; of a run exactly those of the
            file that `python -m eval.quantization` writes.
    """

    weight_error: float
    bits_per_weight: float
    bytes: int


@dataclass(frozen=True, kw_only=True)
class CacheScore(Score):
    """A score with a quantized cache, and what that takes for a token in all layers together."""

    bytes_per_token: float


@dataclass(frozen=True, kw_only=True)
class SearchScore(WeightScore):
    """A score with the widths that were found, and the same width everywhere.

    Attributes:
        uniform: the score of the same width everywhere.
        widths: bits by matrix.
        divergence: KL on calibration text after every generation.
    """

    uniform: WeightScore
    widths: Mapping[str, int]
    divergence: list[float]


@dataclass(frozen=True)
class ProbabilityScores:
    """Scores with rounded attention weights.

    Attributes:
        plain, corrected: without and with softmax bias correction.
        mass: mean sum of a row.
        lost: what rounding takes off a row.
        lost_by_row: of the rows of a window, the first first.
    """

    plain: Score
    corrected: Score
    mass: float
    lost: float
    lost_by_row: list[float]


class Scorer:
    """Scores one subject on some windows; made while it is in full precision.

    Tokens that begin a document are not scored.

    Attributes:
        full_precision: loss, bits per byte and perplexity.
    """

    def __init__(self, subject: Subject, windows: Windows) -> None:
        self._subject, self._windows = subject, windows
        self._matrices = weight_matrices(subject.blocks)
        self._counted = targets(subject, windows.tokens)
        self._nats = self._losses()
        self.full_precision = self._level(self._nats)

    def score(self) -> Score:
        """The network as it now is: its level, and the difference to full precision by document."""
        nats = self._losses()
        sums, counts = (nats - self._nats).sum(1).tolist(), self._counted.sum(1).tolist()
        delta = sum(sums) / sum(counts)
        by_document = contributions(sums, counts, self._windows.documents)
        return Score(
            **vars(self._level(nats)),
            delta_loss=delta,
            interval=student(list(by_document.values())).half if by_document else None,
            by_document=by_document,
            loss_ratio=1 + delta / self.full_precision.loss,
            perplexity_ratio=_exp(delta),
        )

    def score_weights(self, quantized: Quantized, size: int) -> WeightScore:
        """The network with quantized weights, which take `size` bytes on disk."""
        packed = sum(matrix.nbytes for matrix in quantized.values())
        count = sum(matrix.numel() for matrix in self._matrices.values())
        with replaced(self._matrices, quantized) as error:
            score = self.score()
        return WeightScore(**vars(score), weight_error=error, bits_per_weight=8 * packed / count, bytes=size)

    def _losses(self) -> Tensor:
        """Losses of every token in nats, float64 [windows, length - 1]; 0 where it is not scored."""
        tokens = self._windows.tokens
        batches = tokens.split(self._subject.batch(tokens.shape[1]))
        nats = torch.cat([self._subject.losses(batch).cpu().double() for batch in batches])
        return nats.masked_fill(~self._counted, 0)

    def _level(self, nats: Tensor) -> Level:
        loss = float(nats.sum() / self._counted.sum())
        return Level(loss=loss, bits_per_byte=self._windows.bits_per_byte(loss), perplexity=_exp(loss))


def ratio_by_document(score: Score) -> dict[str, float] | None:
    """Contributions of documents to a score's perplexity ratio: e^delta is straight over its noise."""
    ratio, parts = score.perplexity_ratio, score.by_document
    if ratio is None or not parts:
        return None
    return {document: ratio * (1 + part - score.delta_loss) for document, part in parts.items()}


def _exp(value: float) -> float | None:
    """e^value; None beyond what a float holds."""
    return math.exp(value) if value < 700 else None
