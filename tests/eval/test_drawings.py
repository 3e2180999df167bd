"""What quantization did is drawn for every method that was measured, and for no other."""

import copy
from dataclasses import replace
from typing import Any

import pytest

from eval.analyses import quantize
from eval.display import Figure
from eval.report.collection import Measured, shown
from eval.report.drawings import sections
from eval.report.pairs import Group
from tests.eval.examples import page_of, run, score

SCORE = score()
WEIGHTS = ("weight_error", "bits_per_weight", "bytes")
CACHE = {key: value for key, value in SCORE.items() if key not in WEIGHTS} | {"bytes_per_token": 10.0}


def quantized(name: str, **methods: object) -> Measured:
    """A run with these entries among its results of quantize."""
    plain = run(name, "softmax", 1.5)
    results: dict[str, Any] = copy.deepcopy(dict(plain.results))
    del results["quantize"]["results"]["bits"]
    results["quantize"]["results"] |= methods
    return replace(plain, results=results)


def typed(measured: Measured) -> quantize.Result:
    return measured.typed["quantize"]


def figures(*runs: Measured) -> list[Figure]:
    return quantize.figures(shown(runs, "quantize"))


def titles(*runs: Measured) -> list[str]:
    return [figure.title for figure in figures(*runs)]


def test_each_method_that_was_measured_has_a_figure() -> None:
    widths = {"4": SCORE, "2": SCORE}
    rounded = [f"Loss with rounded weights: {method}" for method in ("round to nearest", "GPTQ", "HQQ")]
    elsewhere, errors = (
        "Loss with fewer bits in activations, cache and attention",
        "Error of the rounded weights",
    )
    assert titles(quantized("a", bits=widths)) == [rounded[0], errors]
    assert titles(quantized("a", bits=widths), quantized("b", gptq=widths)) == [*rounded[:2], errors]
    assert titles(quantized("a", hqq=widths, cache={"8": CACHE})) == [
        rounded[0],
        rounded[2],
        elsewhere,
        errors,
    ]


def test_the_curves_are_loss_ratios_over_bits() -> None:
    one = quantized("one", bits={"4": SCORE}, gptq={"4": SCORE | {"loss_ratio": 1.1}, "2": SCORE})
    two = quantized("two", bits={"4": SCORE}, gptq={"2": SCORE | {"loss_ratio": 1.5}})
    first, second = figures(one, two)[1].curves
    assert (list(first.x), list(first.y)) == ([0, 1], [1.1, 1.25])
    assert (list(second.x), list(second.y)) == ([1], [1.5])


def test_what_was_calibrated_on_stands_beside_the_curves() -> None:
    widths = {"4": SCORE}
    run = quantized(
        "a", bits=widths, gptq=widths, cache={"4": CACHE}, calibration={"windows": 64, "tokens": 8192}
    )
    captions = [figure.caption for figure in figures(run)]
    told = ["Calibrated on 8,192 tokens of training text." in caption for caption in captions]
    assert told == [False, True, True, False]


@pytest.mark.slow
def test_activations_cache_and_attention_share_a_figure() -> None:
    plain = {key: value for key, value in CACHE.items() if key != "bytes_per_token"}
    pair = {
        "plain": plain,
        "corrected": plain | {"loss_ratio": 1.05},
        "mass": 1.0,
        "lost": 0.1,
        "lost_by_row": [],
    }
    full = quantized("full", bits={}, w8a8={"static": SCORE}, cache={"4": CACHE}, probabilities={"4": pair})
    bare = quantized("bare", bits={}, cache={"4": CACHE | {"loss_ratio": 1.0}})
    assert quantize._parts(typed(full)) == {
        "W8A8\nstatic": 1.25,
        "cache\n4": 1.25,
        "prob.\n4": 1.25,
        "corr.\n4": 1.05,
    }
    assert quantize._parts(typed(bare)) == {"cache\n4": 1.0}
    groups = [Group(run.name, {0: run}) for run in (full, bare)]
    chart = next(
        drawing.chart
        for section in sections(groups)
        for drawing in section.drawings
        if "cache" in drawing.title
    )
    for label in ("W8A8", "static", "cache", "prob.", "corr."):
        assert label in str(chart)
    assert "Loss with fewer bits in activations" in page_of([full, bare])
