"""Claims and their verdicts, on data with known answers."""

import math
from dataclasses import replace

import numpy as np
import pytest

from common.errors import InputError
from study.claims import Claim, check, fingerprint, verdicts

CLAIM = Claim("c", "A is above B.", "metric", ["a", "b"], "higher", 0.1)


def numbers(**values: list[float]) -> dict[str, dict[str, dict[int, float]]]:
    return {"metric": {name: dict(enumerate(some)) for name, some in values.items()}}


def outcome(claim: Claim, **values: list[float]) -> str:
    (found,) = verdicts([claim], numbers(**values))
    return found.outcome


BASE = [1.0, 1.2, 0.9, 1.1, 1.05, 0.97]


def shifted(by: float, spread: float = 0.01) -> list[float]:
    return [value + by + spread * (-1) ** place * (1 + place) for place, value in enumerate(BASE)]


@pytest.mark.parametrize(
    ("direction", "by", "expected"),
    [
        ("higher", 0.5, "confirmed"),
        ("higher", 0.0, "refuted"),
        ("higher", 0.1, "undecided"),
        ("higher", -0.5, "refuted"),
        ("lower", -0.5, "confirmed"),
        ("lower", 0.5, "refuted"),
        ("lower", -0.1, "undecided"),
        ("same", 0.0, "confirmed"),
        ("same", 0.5, "refuted"),
        ("same", -0.5, "refuted"),
        ("same", 0.1, "undecided"),
    ],
)
def test_a_difference_is_held_against_the_smallest_that_matters(direction, by, expected):
    assert outcome(replace(CLAIM, direction=direction), a=shifted(by), b=BASE) == expected


@pytest.mark.parametrize(
    ("direction", "bound", "expected"),
    [
        ("higher", 0.5, "confirmed"),
        ("higher", 2.0, "refuted"),
        ("lower", 2.0, "confirmed"),
        ("lower", 0.5, "refuted"),
    ],
)
def test_one_variant_is_held_against_a_bound(direction, bound, expected):
    claim = replace(CLAIM, contrast=["a"], direction=direction, smallest=bound)
    assert outcome(claim, a=BASE) == expected


def test_pairs_cancel_what_the_seed_does():
    """Seeds differ by ten, the variants by one: only pairs can tell."""
    base = [10.0 * seed for seed in range(6)]
    assert outcome(CLAIM, a=[value + 1 + 0.01 * (value % 3) for value in base], b=base) == "confirmed"


def test_only_seeds_in_common_count_whatever_their_order():
    mine = {"metric": {"a": {3: 1.5, 1: 1.4, 9: 99.0}, "b": {1: 1.0, 3: 1.0, 7: -99.0}}}
    (found,) = verdicts([CLAIM], mine)
    assert found.seeds == [1, 3]
    assert found.interval is not None
    assert found.interval.mean == pytest.approx(0.45)


def test_an_undecided_claim_says_how_many_seeds_would_decide_it():
    (found,) = verdicts([CLAIM], numbers(a=shifted(0.13, spread=0.02), b=BASE))
    assert found.outcome == "undecided"
    assert found.needed is not None
    assert found.needed > len(BASE)


def test_a_claim_without_numbers_or_with_one_seed_is_undecided():
    (found,) = verdicts([CLAIM], {})
    assert (found.outcome, found.interval, found.why) == ("undecided", None, "no seed has been measured")
    assert outcome(CLAIM, a=[5.0], b=[1.0]) == "undecided"


def test_exact_numbers_without_spread_are_decided_by_their_count():
    assert outcome(replace(CLAIM, contrast=["a"], direction="lower"), a=[0.0] * 10) == "confirmed"
    assert outcome(replace(CLAIM, contrast=["a"], direction="lower"), a=[0.0] * 3) == "undecided"


def test_more_claims_ask_for_more():
    values = numbers(a=shifted(0.16, spread=0.012), b=BASE)
    alone = verdicts([CLAIM], values)[0]
    among = verdicts(
        [CLAIM, *(replace(CLAIM, name=f"{place}", metric="none") for place in range(200))], values
    )[0]
    assert alone.outcome == "confirmed"
    assert among.outcome == "undecided"


@pytest.mark.slow
def test_a_true_bound_is_seldom_decided():
    """Where the truth lies on the bound, either verdict is false: at most one study in twenty has one."""
    generator = np.random.default_rng(0)
    decided = 0
    for _ in range(1000):
        values = list(generator.normal(0.1, 1, size=5))
        decided += outcome(CLAIM, a=values, b=[0.0] * 5) != "undecided"
    assert 0.03 < decided / 1000 < 0.07


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"direction": "up"}, "direction must be higher, lower or same"),
        ({"contrast": ["a", "z"]}, "no variant 'z'"),
        ({"contrast": ["a", "a"]}, "one variant, or two that differ"),
        ({"contrast": []}, "one variant, or two that differ"),
        ({"contrast": ["a"], "direction": "same"}, "higher or lower than a bound"),
        ({"smallest": -1.0}, "smallest is a size"),
        ({"smallest": math.nan}, "smallest must be a finite number"),
        ({"contrast": ["a"], "smallest": -math.inf}, "smallest must be a finite number"),
        ({"direction": "same", "smallest": 0.0}, "'same' needs smallest"),
    ],
)
def test_a_claim_that_nothing_could_decide_is_refused(change, message):
    with pytest.raises(InputError, match=message):
        check([replace(CLAIM, **change)], ["a", "b"])


def test_a_name_stands_once():
    with pytest.raises(InputError, match="stands there twice"):
        check([CLAIM, CLAIM], ["a", "b"])


def test_the_fingerprint_is_of_what_is_claimed():
    other = replace(CLAIM, name="d")
    assert fingerprint([CLAIM, other]) == fingerprint([other, CLAIM])
    assert fingerprint([CLAIM]) != fingerprint([replace(CLAIM, smallest=0.2)])
