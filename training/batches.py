"""Which sequences a process sees in which step: a function of the step, so that a run can be continued anywhere."""

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from common.targets import IGNORED
from data import PackedDataset
from models import ModelError

Batch = dict[str, Tensor]
"""tokens, targets and documents, each int64 [sequences, length]."""


class TrainingBatches:
    """The micro-batches of one process in each optimiser step.

    Step s of any run with this seed and batch size uses the sequences at positions s * batch_size .. of the shuffled
    epochs, however many processes and micro-batches share them.
    """

    def __init__(
        self,
        dataset: PackedDataset,
        *,
        seed: int,
        batch_size: int,
        micro_batch_size: int | None,
        rank: int,
        processes: int,
    ) -> None:
        """Cut batches of `batch_size` sequences over `processes`, of which this is number `rank`.

        Raises:
            ModelError: no sequences, or sizes that do not divide.
        """
        if len(dataset) == 0:
            raise ModelError("the training text is shorter than one sequence")
        if batch_size % processes:
            raise ModelError(f"train.batch_size={batch_size} must be a multiple of the {processes} processes")
        self.share = batch_size // processes
        self.micro_batch_size = micro_batch_size or self.share
        if self.share % self.micro_batch_size:
            raise ModelError(
                f"train.micro_batch_size={self.micro_batch_size} must divide the {self.share} sequences per process"
            )
        self.micro_batches = self.share // self.micro_batch_size
        self.dataset = dataset
        self._order = dataset.order(seed)
        self._batch_size = batch_size
        self._rank = rank

    def first(self, micro_batch: int) -> int:
        """Place of a micro-batch's first sequence among all of a step, over all processes."""
        return self._rank * self.share + micro_batch * self.micro_batch_size

    def at(self, step: int) -> list[Batch]:
        """This process's micro-batches of a step."""
        first = step * self._batch_size + self.first(0)
        indices = [self._order.index(position) for position in range(first, first + self.share)]
        return [
            collate([self.dataset[index] for index in indices[start : start + self.micro_batch_size]])
            for start in range(0, self.share, self.micro_batch_size)
        ]


def validation_batches(
    dataset: PackedDataset, *, sequences: int | None, micro_batch_size: int, rank: int, processes: int
) -> Iterator[Batch]:
    """One process's part of `sequences` held-out sequences spread evenly over the text; the same in every validation.

    Every process gets the same number of batches, as sharded models need; one without sequences left carries no loss.
    """
    count = min(sequences or len(dataset), len(dataset))
    chosen = [index * len(dataset) // count for index in range(count)]
    per_round = micro_batch_size * processes
    for start in range(0, count, per_round):
        mine = chosen[start + rank * micro_batch_size : start + (rank + 1) * micro_batch_size]
        batch = collate([dataset[index] for index in mine] or [dataset[chosen[0]]])
        if not mine:
            batch["targets"] = torch.full_like(batch["targets"], IGNORED)
        yield batch


def collate(items: Sequence[Batch]) -> Batch:
    """Sequences stacked to [sequences, length]."""
    return {name: torch.stack([item[name] for item in items]) for name in items[0]}


def count_targets(batches: Sequence[Batch]) -> int:
    """Tokens that carry loss."""
    return sum(int((batch["targets"] != IGNORED).sum()) for batch in batches)


def count_unknown(batches: Sequence[Batch], vocabulary: int) -> int:
    """Tokens and targets that are no entry of a vocabulary."""
    unknown = 0
    for batch in batches:
        tokens, targets = batch["tokens"], batch["targets"]
        unknown += int(((tokens < 0) | (tokens >= vocabulary)).sum())
        unknown += int((((targets < 0) & (targets != IGNORED)) | (targets >= vocabulary)).sum())
    return unknown
