"""Tests over seeds: against published values, and by simulation."""

import numpy as np
import pytest
from scipy import stats

from eval.noise import detectable, noise
from study.statistics import MOST_SEEDS, holm, needed_seeds, one_sided


def test_one_sided_is_students_test():
    values = [0.3, 0.1, 0.4, 0.2, 0.5]
    for side, alternative in ((1, "greater"), (-1, "less")):
        expected = stats.ttest_1samp(values, 0.25, alternative=alternative).pvalue
        assert one_sided(values, 0.25, side) == pytest.approx(expected, rel=1e-12)


def test_values_that_do_not_spread_are_judged_by_their_sign():
    assert one_sided([0.5] * 10, 0.25, 1) == 2.0**-10
    assert one_sided([0.5] * 10, 0.25, -1) == 1.0
    assert one_sided([0.25] * 10, 0.25, 1) == one_sided([0.25] * 10, 0.25, -1) == 1.0


def test_one_seed_decides_nothing():
    assert one_sided([5.0], 0.0, 1) >= 0.5


def test_holm_is_the_published_procedure():
    assert holm([0.01, 0.04, 0.03, 0.005]) == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert holm([0.9, 0.8]) == [1.0, 1.0]
    assert holm([]) == []


@pytest.mark.slow
def test_holm_keeps_the_chance_of_any_false_verdict():
    """Of 2000 studies in which nothing differs, with six claims each, one in twenty has a false one."""
    generator = np.random.default_rng(0)
    false = 0
    for _ in range(2000):
        chances = stats.ttest_1samp(generator.normal(size=(5, 6)), 0).pvalue
        false += min(holm(list(chances))) < 0.05
    assert false / 2000 < 0.05 + 3 * (0.05 * 0.95 / 2000) ** 0.5
    assert false / 2000 > 0.03


@pytest.mark.parametrize(("effect", "seeds"), [(0.5, 34), (0.8, 15), (1.0, 10)])
def test_needed_seeds_are_those_of_the_tables(effect, seeds):
    """Paired t-test, two-sided 5 %, power 80 %."""
    values = np.array([-1.0, 1.0] * 50)
    values *= effect and 1 / values.std(ddof=1)
    assert needed_seeds(list(values), effect, 0.05) == seeds
    assert detectable(seeds) <= effect < detectable(seeds - 1)


def test_a_number_of_seeds_cannot_be_told_without_spread_or_distance():
    assert needed_seeds([1.0, 1.0, 1.0], 0.5, 0.05) is None
    assert needed_seeds([1.0, 2.0], 0.0, 0.05) is None
    assert needed_seeds([1.0], 0.5, 0.05) is None
    assert needed_seeds([-1.0, 1.0], 1e-4, 0.05) is None, f"it takes more than {MOST_SEEDS}"


def test_noise_is_the_spread_over_seeds():
    found = noise([1.0, 2.0, 3.0])
    assert (found.seeds, found.deviation) == (3, 1.0)
    assert found.shows == pytest.approx(detectable(3) * 2**0.5)
    assert noise([1.0]).shows is None


def test_what_is_detectable_is_detected_four_times_of_five():
    generator = np.random.default_rng(0)
    drawn = generator.normal(loc=detectable(6), size=(6, 4000))
    assert np.mean(stats.ttest_1samp(drawn, 0).pvalue < 0.05) == pytest.approx(0.8, abs=0.03)
