"""Loss of a network whose computation was changed, beside its own in full precision, on the same windows."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eval.intervals import contributions, student
from eval.quantization.weights import Quantized, replaced, weight_matrices
from eval.subjects.subject import Subject
from eval.windows import Windows, targets


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

    def score(self) -> dict[str, Any]:
        """The network as it now is: its level, and the difference to full precision by document."""
        nats = self._losses()
        sums, counts = (nats - self._nats).sum(1).tolist(), self._counted.sum(1).tolist()
        delta = sum(sums) / sum(counts)
        by_document = contributions(sums, counts, self._windows.documents)
        return self._level(nats) | {
            "delta_loss": delta,
            "interval": student(list(by_document.values())).half if by_document else None,
            "by_document": by_document,
            "loss_ratio": 1 + delta / self.full_precision["loss"],
            "perplexity_ratio": _exp(delta),
        }

    def score_weights(self, quantized: Quantized) -> dict[str, Any]:
        """The network with quantized weights: its score, how far they are from the true ones, their size."""
        packed = sum(matrix.nbytes for matrix in quantized.values())
        count = sum(matrix.numel() for matrix in self._matrices.values())
        with replaced(self._matrices, quantized) as error:
            score = self.score()
        return score | {"weight_error": error, "bits_per_weight": 8 * packed / count}

    def _losses(self) -> Tensor:
        """Of every token in nats, float64 [windows, length - 1]; 0 where it is not scored."""
        tokens = self._windows.tokens
        batches = tokens.split(self._subject.batch(tokens.shape[1]))
        nats = torch.cat([self._subject.losses(batch).cpu().double() for batch in batches])
        return nats.masked_fill(~self._counted, 0)

    def _level(self, nats: Tensor) -> dict[str, Any]:
        loss = float(nats.sum() / self._counted.sum())
        return {"loss": loss, "bits_per_byte": self._windows.bits_per_byte(loss), "perplexity": _exp(loss)}


def ratio_by_document(score: Mapping[str, Any]) -> dict[str, float] | None:
    """What each document contributes to a score's perplexity ratio: e^delta is straight over its noise."""
    ratio, parts = score.get("perplexity_ratio"), score.get("by_document")
    if ratio is None or not parts:
        return None
    return {document: ratio * (1 + part - score["delta_loss"]) for document, part in parts.items()}


def _exp(value: float) -> float | None:
    """e^value; None beyond what a float holds."""
    return math.exp(value) if value < 700 else None
