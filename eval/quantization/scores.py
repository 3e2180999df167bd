"""Loss of a network whose computation was changed, beside its own in full precision, on the same windows."""

import math
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from eval.intervals import NORMAL, student
from eval.quantization.weights import Quantized, replaced, weight_matrices
from eval.subject import Subject
from eval.text import Windows, targets


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
        """The network as it now is: its level, and the difference to full precision with its interval over windows."""
        nats = self._losses()
        sums, counts = (nats - self._nats).sum(1), self._counted.sum(1)
        delta = float(sums.sum() / counts.sum())
        # Windows over joined documents score different numbers of tokens: the spread of a ratio of two means.
        deltas = delta + (sums - delta * counts) / counts.double().mean()
        return self._level(nats) | {
            "delta_loss": delta,
            "interval": student(deltas.tolist()).half,
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


def ratio_error(score: Mapping[str, Any]) -> float | None:
    """Standard error of a score's perplexity ratio; None where it has no interval.

    The interval is of the logarithm and Student's: the error is a little too large.
    """
    ratio, half = score.get("perplexity_ratio"), score.get("interval")
    return None if ratio is None or half is None else ratio * half / NORMAL


def _exp(value: float) -> float | None:
    """e^value; None beyond what a float holds."""
    return math.exp(value) if value < 700 else None
