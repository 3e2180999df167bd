"""Intervals against calculation by hand, published numbers, and how often they hold the truth."""

import math
import sys

import numpy as np
import pytest

from eval.intervals import Interval, bootstrap, student, wilson
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


@pytest.mark.parametrize("interval", [student, bootstrap])
@pytest.mark.parametrize("values", [[0.25], [0.25, 0.25], [0.0] * 9, [0.905 - 0.895, 0.93 - 0.92]])
def test_values_that_do_not_spread_have_no_interval(interval, values: list[float]) -> None:
    found = interval(values)
    assert found == Interval(pytest.approx(values[0]), None, None)
    assert (found.half, found.sign) == (None, 0)


def test_intervals_hold_the_truth_as_often_as_they_say() -> None:
    """Student's over 4 values, the bootstrap over 40, around 0.3; Wilson's over 10 trials, on average of shares."""
    noise = np.random.default_rng(1)

    def covered(interval: Interval, truth: float) -> bool:
        assert interval.low is not None
        assert interval.high is not None
        return interval.low <= truth <= interval.high

    few = [covered(student(noise.normal(0.3, 1, 4)), 0.3) for _ in range(1000)]
    many = [covered(bootstrap(noise.gamma(2, 0.15, 40)), 0.3) for _ in range(150)]
    shares = noise.uniform(0, 1, 2000)
    trials = [covered(wilson(int(noise.binomial(10, share)), 10), share) for share in shares]
    assert 0.93 <= np.mean(few) <= 0.97
    assert 0.88 <= np.mean(many) <= 0.99
    assert 0.93 <= np.mean(trials) <= 0.97


def test_wilson_has_a_width_where_nothing_or_everything_is_right() -> None:
    # z^2 / (n + z^2) and 1 / (1 + z^2 / n) of n = 10; 81 of 263: Newcombe, Stat Med 17 (1998) 857.
    assert wilson(0, 10) == Interval(0, pytest.approx(0), pytest.approx(0.2775, abs=1e-4))
    assert wilson(10, 10) == Interval(1, pytest.approx(0.7225, abs=1e-4), pytest.approx(1))
    found = wilson(81, 263)
    assert (found.low, found.high) == (pytest.approx(0.2553, abs=5e-5), pytest.approx(0.3662, abs=5e-5))


def test_a_missing_library_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "scipy", None)
    with pytest.raises(ModelError, match=r"scipy: pip install 'attention-zoo\[eval\]'"):
        student([1.0, 2.0])
