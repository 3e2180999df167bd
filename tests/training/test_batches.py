"""Which sequence is seen when: by step alone, whoever computes it."""

import pytest
import torch

from common.targets import IGNORED
from data import BatchOrder, PackedDataset, prepare
from models import ModelError
from tests.training.conftest import MakeConfig
from training.batches import TrainingBatches, count_targets, validation_batches


@pytest.fixture
def dataset(make: MakeConfig) -> PackedDataset:
    return PackedDataset(prepare(make().data).train, 32)


def batches(
    dataset: PackedDataset, rank: int = 0, processes: int = 1, micro: int | None = None
) -> TrainingBatches:
    return TrainingBatches(
        dataset, seed=1, batch_size=8, micro_batch_size=micro, rank=rank, processes=processes
    )


@pytest.mark.slow
@pytest.mark.parametrize(("processes", "micro"), [(1, 2), (2, None), (4, 1), (2, 2)])
def test_a_step_sees_the_same_sequences_however_it_is_cut(
    dataset: PackedDataset, processes: int, micro: int
) -> None:
    for step in (0, 1, len(dataset) // 8):
        whole = batches(dataset).at(step)[0]["tokens"]
        shares = [batches(dataset, rank, processes, micro).at(step) for rank in range(processes)]
        assert torch.equal(torch.cat([part["tokens"] for share in shares for part in share]), whole)


class Numbered:
    """A dataset whose rows are their own indices."""

    def __len__(self) -> int:
        return 40

    def __getitem__(self, index: int) -> dict[str, torch.Tensor]:
        return {name: torch.tensor([index]) for name in ("tokens", "targets", "documents")}

    def order(self, seed: int) -> BatchOrder:
        return BatchOrder(len(self), seed)


def test_an_epoch_sees_every_sequence_once_and_the_next_one_in_another_order() -> None:
    source = batches(Numbered())  # type: ignore[arg-type]
    rows = torch.cat([source.at(step)[0]["tokens"] for step in range(10)]).flatten().tolist()
    first, second = rows[:40], rows[40:]
    assert sorted(first) == sorted(second) == list(range(40))
    assert first != second


def test_sizes_that_do_not_divide_are_refused(dataset: PackedDataset) -> None:
    with pytest.raises(ModelError, match=r"train\.batch_size=8 must be a multiple of the 3 processes"):
        batches(dataset, processes=3)
    with pytest.raises(
        ModelError, match=r"train\.micro_batch_size=3 must divide the 4 sequences per process"
    ):
        batches(dataset, processes=2, micro=3)


@pytest.mark.parametrize("processes", [1, 2, 3])
def test_validation_covers_the_same_tokens_with_any_number_of_processes(
    dataset: PackedDataset, processes: int
) -> None:
    shares = [
        list(validation_batches(dataset, sequences=7, micro_batch_size=2, rank=rank, processes=processes))
        for rank in range(processes)
    ]
    assert len({len(share) for share in shares}) == 1
    everything = list(validation_batches(dataset, sequences=7, micro_batch_size=7, rank=0, processes=1))
    assert sum(count_targets(share) for share in shares) == count_targets(everything)
    assert sum((batch["targets"] != IGNORED).any(1).sum() for share in shares for batch in share) == 7


def test_all_held_out_sequences_without_a_number(dataset: PackedDataset) -> None:
    every = validation_batches(dataset, sequences=None, micro_batch_size=16, rank=0, processes=1)
    assert count_targets(list(every)) == dataset.n_targets


def test_validation_is_spread_over_the_whole_text() -> None:
    """Three of ten sequences are every third, not the first three."""
    numbered = [
        dict.fromkeys(("tokens", "targets", "documents"), torch.tensor([number])) for number in range(10)
    ]
    seen = [
        batch["tokens"].flatten().tolist()
        for batch in validation_batches(numbered, sequences=3, micro_batch_size=2, rank=0, processes=1)  # type: ignore[arg-type]
    ]
    assert seen == [[0, 3], [6]]
