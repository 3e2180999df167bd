"""What a model does on held-out text: losses of its tokens, which every evaluation counts, and of the ends of its
documents, and the statistics of its attention.
"""

import math
from collections.abc import Iterator
from functools import cached_property

import torch
from torch import Tensor

from data import PackedDataset
from models import ModelError
from training.batches import Batch, count_targets, count_unknown, validation_batches
from training.engine import Engine
from training.losses.objective import held_out_losses
from training.telemetry import attention_statistics


class Validation:
    """Measures a model in training on held-out text, on the same sequences each time."""

    def __init__(
        self,
        engine: Engine,
        held_out: PackedDataset,
        *,
        sequences: int | None,
        micro_batch_size: int,
        bytes_per_token: float,
    ) -> None:
        """Take `sequences` evenly spaced ones of a text with so many bytes per token.

        Raises:
            ModelError: there are none.
        """
        if len(held_out) == 0:
            raise ModelError(
                "the held-out text is shorter than one sequence; raise data.held_out or lower train.length"
            )
        self._engine = engine
        self._held_out = held_out
        self._sequences = sequences
        self._micro_batch_size = micro_batch_size
        self._bytes_per_token = bytes_per_token

    @torch.no_grad()
    def measure(self) -> dict[str, float]:
        """Loss in nats per token and bits per byte, that of the averaged weights if there are any, and per layer what
        attention does on one of the sequences.

        Raises:
            ModelError: the text has no token to predict, or tokens outside the vocabulary.
        """
        engine = self._engine
        tokens = self._tokens
        nats, end_nats, ends = self._sums()
        averaged = {}
        if engine.average is not None:
            with engine.average.in_place():
                averaged = {"ema_validation_loss": self._sums()[0] / tokens}
        one = {name: value[:1] for name, value in engine.place(next(self._batches())).items()}
        statistics = engine.compute(lambda objective: attention_statistics(objective.network, one))
        loss = nats / tokens
        return (
            {
                "validation_loss": loss,
                "bits_per_byte": loss / math.log(2) / self._bytes_per_token,
                "validation_tokens": tokens,
            }
            | averaged
            | ({"end_loss": end_nats / ends} if ends else {})
            | statistics
        )

    def _sums(self) -> list[float]:
        """Over all processes: nats of text, nats of ends of documents, and how many of these."""
        sums = torch.zeros(3, device=self._engine.accelerator.device, dtype=torch.float64)
        for batch in map(self._engine.place, self._batches()):
            losses, closes = self._losses(batch), self._closes(batch)
            sums[0] += losses.masked_fill(closes, 0).sum()
            sums[1] += losses.where(closes, 0).sum()
            sums[2] += closes.sum()
        found: list[float] = self._engine.sum(sums).tolist()
        return found

    @cached_property
    def _tokens(self) -> int:
        """Tokens of text over all processes, which look before any of them computes; the text stays the same."""
        tokens = unknown = 0
        for batch in self._batches():
            tokens += count_targets([batch]) - int(self._closes(batch).sum())
            unknown += count_unknown([batch], self._engine.network.plan.vocab_size)
        return self._engine.count(tokens, unknown, "the held-out text")

    def _batches(self) -> Iterator[Batch]:
        accelerator = self._engine.accelerator
        return validation_batches(
            self._held_out,
            sequences=self._sequences,
            micro_batch_size=self._micro_batch_size,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
        )

    def _closes(self, batch: Batch) -> Tensor:
        """Which targets are ends of documents, [B, T]."""
        return batch["targets"] == self._held_out.shard.bos

    def _losses(self, batch: Batch) -> Tensor:
        tokens, targets, documents = batch["tokens"], batch["targets"], batch["documents"]
        return self._engine.compute(
            lambda objective: held_out_losses(objective.network, tokens, targets, documents)
        )
