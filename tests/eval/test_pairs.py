import math
from dataclasses import replace

import numpy as np
import pytest
from scipy import stats

from eval.report import pairs
from eval.report.collection import Measured
from eval.report.columns import Column
from eval.report.comparison import columns
from eval.report.contents import Report
from eval.report.findings import findings
from eval.report.page import render
from tests.eval.examples import page_of, run


def seeded(name: str, label: str, bits: dict[int, float], **changes: object) -> list[Measured]:
    """A run for each seed, with this loss."""
    return [
        run(
            f"{name}-{seed}",
            label,
            loss,
            config={"name": f"{name}-{seed}", "seed": seed, "model": {"attention": label, "n_layer": 2}},
            **changes,
        )
        for seed, loss in bits.items()
    ]


BASE = {1: 1.50, 2: 1.58, 3: 1.46}
MINE = {1: 1.47, 2: 1.54, 3: 1.45}


def column(key: str, runs: list[Measured]) -> Column:
    return next(column for column in columns(runs) if column.key == key)


def with_documents(measured: Measured, bits: list[float]) -> Measured:
    """The run with what each document contributes to the loss at the shortest length."""
    file = measured.results["lengths"]
    parts = {str(number): loss for number, loss in enumerate(bits)}
    entry = {"multiple": 1, "bits_per_byte": float(np.mean(bits)), "by_document": parts}
    shortest = {"32": {**file["results"]["lengths"]["32"], **entry}}
    lengths = {**file, "results": {**file["results"], "lengths": shortest}}
    return replace(measured, results={**measured.results, "lengths": lengths})


def test_runs_of_one_seed_are_paired_as_by_a_paired_t_test():
    runs = seeded("base", "softmax", BASE) + seeded("pick", "softpick", MINE)[::-1]
    (found,) = pairs.compare(column("bits_per_byte", runs), runs)
    expected = stats.ttest_rel(list(MINE.values()), list(BASE.values()))
    interval = expected.confidence_interval(0.95)
    assert (found.group, found.baseline, found.over) == ("softpick", "softmax", "seeds")
    assert sorted(found.seeds) == [1, 2, 3]
    assert found.interval.mean == pytest.approx(np.mean(list(MINE.values())) - np.mean(list(BASE.values())))
    assert (found.interval.low, found.interval.high) == pytest.approx((interval.low, interval.high))
    assert found.better is None
    assert (expected.pvalue < 0.05) == (found.interval.sign != 0)


@pytest.mark.parametrize(("key", "better"), [("bits_per_byte", True), ("order_acc", False)])
def test_a_verdict_needs_the_whole_interval_on_one_side(key, better):
    """The loss of one is lower by about 0.1 with every seed, its accuracy by about 0.05."""
    low = [
        run
        for seed, loss in BASE.items()
        for run in seeded("low", "softpick", {seed: loss - 0.1 - 0.002 * seed}, sink=0.01 * seed)
    ]
    runs = seeded("base", "softmax", BASE) + low
    (found,) = pairs.compare(column(key, runs), runs)
    assert found.better is better


def test_differences_without_spread_give_no_verdict():
    """Two seeds differ by the same number of right answers: that says nothing about a third."""
    runs = seeded("base", "softmax", {1: 1.5, 2: 1.6}) + seeded("low", "softpick", {1: 1.4, 2: 1.5}, sink=0.0)
    for key in ("order_acc", "bits_per_byte"):
        (found,) = pairs.compare(column(key, runs), runs)
        assert found.over == "seeds"
        assert found.interval.mean == pytest.approx(-0.05 if key == "order_acc" else -0.1)
        assert (found.interval.low, found.interval.high, found.better) == (None, None, None)
    assert "−0.050 no spread" in pairs.text(runs)
    assert "better" not in pairs.text(runs)
    assert findings(runs)[0] == (
        "Over 2 seeds softpick differs from softmax by −0.1000 bits per byte, by the same with each, so that there is "
        "no interval."
    )


def test_groups_are_runs_that_differ_in_their_seed_only():
    runs = seeded("base", "softmax", BASE) + seeded("pick", "softpick", MINE)
    deep = replace(runs[3], name="deep", config={"seed": 1, "model": {"attention": "softpick", "n_layer": 4}})
    foreign = replace(runs[0], name="gpt2", label="gpt2", config=None)
    again = replace(runs[0], name="base-1-again")
    found = pairs.groups([*runs, deep, foreign, again])
    assert [(group.name, list(group.runs)) for group in found] == [
        ("base-1", [1, 2, 3]),
        ("base-1-again", [1]),
        ("deep", [1]),
        ("gpt2", [None]),
        ("pick-1", [1, 2, 3]),
    ]
    assert [group.name for group in pairs.groups(runs[::-1])] == ["softmax", "softpick"]


def test_runs_measured_differently_or_on_other_data_are_no_pair():
    runs = seeded("base", "softmax", BASE) + seeded("pick", "softpick", MINE)
    runs[4] = replace(runs[4], record={"data": "other"})
    (found,) = pairs.compare(column("bits_per_byte", runs), runs)
    assert found.seeds == [1, 3]
    lone = [runs[0], replace(runs[3], config={**runs[3].config, "seed": 9})]
    assert pairs.compare(column("bits_per_byte", lone), lone) == []
    assert "no two runs have a seed" in pairs.text(lone)


@pytest.mark.slow
def test_a_single_seed_says_so():
    runs = [*seeded("base", "softmax", {1: 1.5}), *seeded("pick", "softpick", {1: 1.4})]
    (found,) = pairs.compare(column("bits_per_byte", runs), runs)
    assert (found.over, found.interval.low, found.better) == (None, None, None)
    assert pairs.text(runs).count("One seed:") == 1
    page = page_of(runs)
    assert page.count("<b>One seed:</b>") == 1
    assert 'class="number better"' not in page
    assert 'class="best"' not in page.replace('<b class="best">Better</b>', "")


def test_documents_give_an_interval_within_one_seed():
    """That of a paired t-test over documents."""
    losses = list(np.random.default_rng(0).normal(3, 0.5, 8))
    lower = [loss - 0.02 + 0.01 * math.sin(place) for place, loss in enumerate(losses)]
    runs = [
        with_documents(seeded("base", "softmax", {1: 1.5})[0], losses),
        with_documents(seeded("pick", "softpick", {1: 1.4})[0], lower),
    ]
    (found,) = pairs.compare(column("bits_1x", runs), runs)
    expected = stats.ttest_rel(lower, losses).confidence_interval(0.95)
    assert (found.over, found.units) == ("parts", 8)
    assert found.interval.mean == pytest.approx(found.differences[0])
    assert (found.interval.low, found.interval.high) == pytest.approx((expected.low, expected.high))
    # It is about these two models, so nothing is called better.
    assert found.better is None
    assert "], n = 8" in pairs.text(runs)
    runs[1] = with_documents(runs[1], lower[:-1])
    assert pairs.compare(column("bits_1x", runs), runs)[0].over is None


def three_and_three() -> list[Measured]:
    """The best of six runs is of the mechanism that is worse on average."""
    return seeded("base", "softmax", {1: 1.50, 2: 1.58, 3: 1.46}) + seeded(
        "pick", "softpick", {1: 1.55, 2: 1.60, 3: 1.45}
    )


def test_with_several_seeds_the_headline_is_the_paired_difference():
    (headline, *_) = findings(three_and_three())
    assert headline.startswith(
        "Over 3 seeds softpick differs from softmax by +0.0200 bits per byte, with a 95 % "
    )
    assert headline.endswith("which includes zero.")


def test_nothing_of_a_report_depends_on_the_order_of_the_runs():
    runs = three_and_three()
    runs += seeded("copy", "softpick", {1: 1.40})
    expected = findings(runs), [pairs.compare(shown, runs) for shown in pairs.columns(runs)]
    for seed in range(6):
        mixed = [runs[place] for place in np.random.default_rng(seed).permutation(len(runs))]
        assert findings(mixed) == expected[0]
        for shown, compared in zip(pairs.columns(runs), expected[1], strict=True):
            again = pairs.compare(shown, mixed)
            assert sorted(again, key=lambda paired: paired.group) == sorted(
                compared, key=lambda paired: paired.group
            )


def test_with_several_seeds_no_run_stands_for_its_mechanism():
    """Ranges name means over seeds."""
    runs = three_and_three()
    (kurtosis,) = [sentence for sentence in findings(runs) if "kurtosis" in sentence]
    assert "15.1 (softmax) to 15.3 (softpick)" in kurtosis


def test_one_of_two_mechanisms_with_several_seeds_is_no_comparison():
    runs = seeded("base", "softmax", BASE) + seeded("pick", "softpick", {1: 1.2})
    assert findings(runs)[0] == (
        "With one seed in common softpick differs from softmax by −0.3000 bits per byte, which says nothing of other "
        "seeds."
    )
    apart = seeded("base", "softmax", BASE) + seeded("pick", "softpick", {7: 1.2})
    assert findings(apart)[0].startswith("No two mechanisms have a seed in common")


@pytest.mark.slow
def test_the_page_shows_the_differences_with_their_intervals():
    runs = seeded("base", "softmax", BASE) + seeded("pick", "softpick", MINE)
    (found,) = pairs.compare(column("bits_per_byte", runs), runs)
    page = page_of(runs)
    assert any(
        sentence.startswith("Over 3 seeds softpick differs from softmax by −0.0267")
        and "includes zero" in sentence
        for sentence in findings(runs)
    )
    assert f"<small>−0.0267 [−{abs(found.interval.low):.4f} to +{found.interval.high:.4f}]</small>" in page
    # The sink rate is the same for all, so nothing differs there.
    assert "+0.0 pp" in page


@pytest.mark.slow
def test_the_page_and_its_data_are_the_same_whatever_the_order_of_the_runs():
    runs = three_and_three() + seeded("win", "swat", {1: 1.47, 2: 1.56})
    mixed = [runs[place] for place in (5, 2, 7, 0, 3, 6, 1, 4)]
    first, second = (Report("A", some, {}) for some in (runs, mixed))
    assert render(first) == render(second)
    assert first.json() == second.json()
    assert first.text() == second.text()
