"""Intervals against calculation by hand, published numbers, and how often they hold the truth."""

import math
import sys

import numpy as np
import pytest
from scipy import stats

from eval.intervals import Interval, contributions, mcnemar, paired, standard_error, student, wilson
from models import ModelError


def test_student_by_hand() -> None:
    """Values -0.03, -0.04, -0.01: mean -0.08 / 3, standard deviation 0.0152753, t(0.975, 2) = 4.30265."""
    found = student([-0.03, -0.04, -0.01])
    half = 4.302653 * math.sqrt((0.003333**2 + 0.013333**2 + 0.016667**2) / 2) / math.sqrt(3)
    assert found.mean == pytest.approx(-0.0266667, abs=1e-6)
    assert (found.low, found.high) == pytest.approx((-0.0266667 - half, -0.0266667 + half), abs=1e-5)
    assert found.half == pytest.approx(half, abs=1e-5)
    assert found.sign == 0
    assert student([-0.03, -0.04, -0.02]).sign == -1


@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25], [0.0] * 9, [0.905 - 0.895, 0.93 - 0.92]])
def test_values_that_do_not_spread_have_no_interval(values: list[float]) -> None:
    found = student(values)
    assert found == Interval(pytest.approx(values[0]), None, None)
    assert (found.half, found.sign) == (None, 0)


def covered(interval: Interval, truth: float) -> bool:
    assert interval.low is not None
    assert interval.high is not None
    return interval.low <= truth <= interval.high


@pytest.mark.slow
def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Student's over 4 values around 0.3; Wilson's over 10 trials, on average of shares."""
    noise = np.random.default_rng(1)
    few = [covered(student(noise.normal(0.3, 1, 4)), 0.3) for _ in range(1000)]
    shares = noise.uniform(0, 1, 2000)
    trials = [covered(wilson(int(noise.binomial(10, share)), 10), share) for share in shares]
    assert 0.93 <= np.mean(few) <= 0.97
    assert 0.93 <= np.mean(trials) <= 0.97


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "sizes", "least"),
    [
        ("normal", [16] * 8, 0.92),
        ("normal", [5, 2, 2, 4, 2], 0.90),
        ("normal", [30, 2, 5, 8, 3, 10, 3, 10, 12, 2, 1], 0.90),
        ("log-normal", [16] * 8, 0.90),
        ("log-normal", [9, 14, 16, 16, 20, 25, 12, 16], 0.90),
    ],
)
def test_intervals_hold_the_truth_of_clustered_windows(name: str, sizes: list[int], least: float) -> None:
    """Windows share the luck of their document, documents are of unequal length, losses may be skewed."""
    noise = np.random.default_rng(2)
    truth = math.exp(0.3**2 / 2 + 0.5) if name == "log-normal" else 0.0
    of = np.repeat(np.arange(len(sizes)), sizes)
    by_unit, by_window = [], []
    for _ in range(1000):
        windows = noise.normal(0, math.sqrt(0.5), len(sizes))[of] + noise.normal(0, math.sqrt(0.5), len(of))
        if name == "log-normal":
            windows = np.exp(noise.normal(0, 0.3, len(sizes))[of] + noise.normal(0, 1, len(of)))
        by_window.append(windows)
        by_unit.append(list(contributions(windows.tolist(), [1] * len(of), of.tolist()).values()))
    np.testing.assert_allclose(np.mean(by_unit, 1), np.mean(by_window, 1), atol=1e-9)
    held, naive = (
        stats.ttest_1samp(sample, 0, axis=1).confidence_interval(0.95) for sample in (by_unit, by_window)
    )
    assert student(by_unit[0]).high == pytest.approx(held.high[0])
    assert np.mean((held.low <= truth) & (truth <= held.high)) >= least
    assert name == "log-normal" or np.mean((naive.low <= 0) & (naive.high >= 0)) < 0.9


def test_contributions_by_hand() -> None:
    """Sums 6, 3 and 9 over 2, 1 and 2 windows: theta 3.6, pulls 2 (-1.2) / 3, 2 (-0.6) / 4 and 2 (1.8) / 3."""
    parts = contributions([2.0, 4.0, 3.0, 4.0, 5.0], [1, 1, 1, 1, 1], [7, 7, 3, 9, 9])
    mean = (-0.8 - 0.3 + 1.2) / 3
    assert parts == pytest.approx({"7": 3.6 - 0.8 - mean, "3": 3.6 - 0.3 - mean, "9": 3.6 + 1.2 - mean})
    # Of equal sizes: the means themselves, exactly.
    assert contributions([1, 0, 1, 1], [1] * 4, ["a", "b", "c", "d"]) == {"a": 1, "b": 0, "c": 1, "d": 1}
    assert contributions([2.0, 4.0, 8.0, 4.0], [2, 2, 4, 4], [0, 0, 1, 2]) == {"0": 1.5, "1": 2.0, "2": 1.0}


@pytest.mark.parametrize("units", [[0, 0, 0, 0], [0, 0, 0, 1]])
def test_one_document_with_most_of_the_text_says_nothing_of_others(units: list[int]) -> None:
    assert contributions([1.0, 2.0, 3.0, 4.0], [1] * 4, units) == {}
    assert contributions([], [], []) == {}


def test_the_error_of_a_mean_is_that_of_scipy() -> None:
    values = [0.3, 0.1, 0.7, 0.2]
    assert standard_error(values) == pytest.approx(stats.sem(values))
    assert standard_error([0.3]) is None


def test_answers_to_the_same_questions_are_compared_by_mcnemars_exact_test() -> None:
    """The interval leaves out zero where the binomial test of the discordant answers rejects."""
    for first, second in [(3, 0), (5, 0), (6, 0), (0, 6), (7, 1), (8, 1), (9, 2), (2, 10)]:
        found = mcnemar([1.0] * first + [-1.0] * second + [0.0] * 5)
        assert found.mean == pytest.approx((first - second) / (first + second + 5))
        assert found.low <= found.mean <= found.high
        assert (found.sign != 0) == (stats.binomtest(first, first + second).pvalue < 0.05), (first, second)
    assert mcnemar([0.0, 0.0]) == Interval(0, None, None)
    # Five discordant answers on one side are not enough, whatever a t-test says: p = 2 / 2^5.
    mine, theirs = {str(n): 1.0 for n in range(10)}, {str(n): float(n < 5) for n in range(10)}
    assert paired(mine, theirs).sign == 0
    assert student([mine[n] - theirs[n] for n in mine]).sign == 1
    assert paired({"a": 0.5, "b": 0.75}, {"a": 0.25, "b": 0.625}) == student([0.25, 0.125])


def test_wilson_has_a_width_where_nothing_or_everything_is_right() -> None:
    # z^2 / (n + z^2) and 1 / (1 + z^2 / n) of n = 10; 81 of 263: Newcombe, Stat Med 17 (1998) 857.
    assert wilson(0, 10) == Interval(0, pytest.approx(0), pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == Interval(1, pytest.approx(0.7225, abs=1e-4), pytest.approx(1))
    found = wilson(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ModelError, match=r"scipy: pip install -e '\.\[eval\]'"):
        student([1.0, 2.0])
