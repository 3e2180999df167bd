"""Losses on held-out text: of its tokens, which every evaluation counts, and of the ends of its documents."""

from collections.abc import Iterable

import torch
from torch import Tensor

from models import GPT
from training.batches import Batch, count_targets, count_unknown
from training.losses.objective import held_out_losses


class HeldOut:
    """Sums of one process over its batches.

    Attributes:
        nats, tokens: of text: the summed loss, float64, and how many tokens.
        end_nats, ends: of ends of documents.
        unknown: tokens outside the vocabulary; batches after the first of them are not computed.
        first: the first batch, None where it has unknown tokens.
    """

    def __init__(self, device: torch.device) -> None:
        self.nats: Tensor
        self.end_nats: Tensor
        self.nats, self.end_nats = torch.zeros(2, device=device, dtype=torch.float64)
        self.tokens = self.ends = self.unknown = 0
        self.first: Batch | None = None

    def add(self, network: GPT, batches: Iterable[Batch], bos: int) -> None:
        """Compute the losses of batches; a target `bos` is the end of a document."""
        for batch in batches:
            self.unknown += count_unknown([batch], network.plan.vocab_size)
            if self.unknown:
                continue
            self.first = self.first or batch
            losses = held_out_losses(network, batch["tokens"], batch["targets"], batch["documents"])
            closes = batch["targets"] == bos
            self.nats += losses.masked_fill(closes, 0).sum()
            self.end_nats += losses.where(closes, 0).sum()
            ends = int(closes.sum())
            self.ends += ends
            self.tokens += count_targets([batch]) - ends
