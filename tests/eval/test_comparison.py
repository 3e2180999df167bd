"""Which numbers compare, which of them is the best, and what a heading says of them."""

import copy
import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest

from eval.report import pairs
from eval.report.collection import Measured
from eval.report.columns import Column
from eval.report.comparison import cells, columns, disagreements
from eval.report.findings import checks
from tests.eval import examples
from tests.eval.examples import run


def column(key: str, runs: list[Measured]) -> Column:
    return next(column for column in columns(runs) if column.key == key)


def changed(measured: Measured, name: str, **parts: Mapping[str, Any]) -> Measured:
    """The run with other entries in the protocol or the results of an analysis."""
    files = copy.deepcopy(dict(measured.results))
    for part, entries in parts.items():
        files[name] = {**files[name], part: {**files[name][part], **entries}}
    return replace(measured, results=files)


def told_apart(key: str, runs: list[Measured]) -> bool:
    """Whether the second of two runs of one seed differs from the first on the same documents or questions.

    Neither is ever called better: that takes seeds.
    """
    (found,) = pairs.compare(column(key, runs), runs)
    assert found.better is None
    return found.interval.sign != 0


def two_runs() -> list[Measured]:
    return [run("base", "softmax", 1.5), run("pick", "softpick", 1.4, sink=0.1)]


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("settings", {"sequences": 9}),
        ("windows", {"length": 128, "windows": 64}),
        ("windows", {"length": 32, "windows": 64, "bos": False}),
        ("versions", {"torch": "2.0.0"}),
        ("text", {"sha256": "00"}),
        ("positions", 512),
        ("code", "4567"),
    ],
)
def test_numbers_of_different_protocols_are_not_ranked(entry: str, value: Any) -> None:
    runs = two_runs()
    alike = {"windows": {"length": 32, "windows": 64, "bos": True}, "versions": {"torch": "2.13.0"}}
    runs = [changed(measured, "activations", protocol=alike) for measured in runs]
    assert disagreements(column("kurtosis", runs), runs) == []
    assert len(pairs.compare(column("kurtosis", runs), runs)) == 1
    runs[1] = changed(runs[1], "activations", protocol={entry: value})
    assert disagreements(column("kurtosis", runs), runs) == [entry]
    assert pairs.compare(column("kurtosis", runs), runs) == []
    assert any(check.holds is False and f"activations: {entry}" in check.detail for check in checks(runs))


@pytest.mark.parametrize("entry", ["device", "train_length", "max_length"])
def test_what_decides_no_number_does_not_matter(entry: str) -> None:
    runs = two_runs()
    runs[1] = changed(runs[1], "activations", protocol={entry: "other"})
    assert disagreements(column("kurtosis", runs), runs) == []


def test_sinks_compare_at_the_windows_that_both_have() -> None:
    """Runs of training lengths 32 and 48, measured at 64 and at their own."""
    runs = two_runs()
    for place, length in enumerate((32, 48)):
        rows = runs[place].results["sinks"]["results"]["lengths"]["32"]
        windows = {str(n): {"length": n, "windows": 100} for n in (64, length)}
        runs[place] = changed(
            replace(runs[place], train_length=length),
            "sinks",
            protocol={"windows": windows, "train_length": length},
            results={"lengths": {"64": rows, str(length): rows}},
        )
    shown = column("sink_renormalised", runs)
    assert (shown.length, disagreements(shown, runs)) == ("64", [])
    assert not any("sinks" in check.detail for check in checks(runs))
    runs[1] = changed(runs[1], "sinks", protocol={"windows": {"64": {"length": 64, "windows": 7}}})
    assert disagreements(shown, runs) == ["windows"]


def test_multiples_of_different_lengths_do_not_compare() -> None:
    runs = two_runs()
    runs[1] = changed(runs[1], "lengths", results={"train_length": 48})
    assert disagreements(column("bits_4x", runs), runs) == ["length"]


def answered(measured: Measured, right: Sequence[int], task: str = "order") -> Measured:
    """The run with these answers to the questions of a task of the harness, one a document."""
    parts = {str(number): float(answer) for number, answer in enumerate(right)}
    value = sum(parts.values()) / len(parts)
    metric = {"value": value, "stderr": 0.01, "higher_is_better": True, "parts": parts}
    found = {"tasks": {task: examples.task(acc=metric)}, "headline": {task: "acc"}}
    return changed(measured, "harness", results=found)


def test_answers_to_the_same_questions_are_compared_one_by_one() -> None:
    """45 right against 39 of 50: the same six more are significant, 12 more and 6 fewer are not (McNemar, exact)."""
    base, pick = two_runs()
    assert told_apart("order_acc", [answered(base, [1] * 45 + [0] * 5), answered(pick, [1] * 39 + [0] * 11)])
    other = [0] * 12 + [1] * 33 + [1] * 5 + [0] * 0
    assert not told_apart("order_acc", [answered(base, [1] * 45 + [0] * 5), answered(pick, other)])
    shown = column("order_acc", [answered(base, [1] * 45 + [0] * 5)])
    assert cells(shown, [answered(base, [1] * 45 + [0] * 5)])[0].text == "0.900 ± 0.043"


def test_nothing_is_told_apart_where_no_noise_is_known() -> None:
    """One number each, and the standard error that lm-eval computes as if all questions were independent."""
    runs = [answered(measured, [1] * 45 + [0] * 5) for measured in two_runs()]
    far = answered(runs[1], [0] * 50)
    assert told_apart("order_acc", [runs[0], far])
    for measured in (runs[0], far):
        del measured.results["harness"]["results"]["tasks"]["order"]["metrics"]["acc"]["parts"]
    # Copies, which read their results anew.
    assert not told_apart("order_acc", [replace(runs[0]), replace(far)])
    for key in ("bits_per_byte", "kurtosis", "sink_renormalised"):
        assert not told_apart(key, two_runs())


def rounded(measured: Measured, deltas: Mapping[str, float]) -> Measured:
    """The run with these contributions of documents to the loss at 4 bits."""
    delta = sum(deltas.values()) / len(deltas)
    score = examples.score(perplexity_ratio=math.exp(delta), delta_loss=delta, by_document=deltas)
    return changed(measured, "quantize", results={"bits": {"4": score}})


def test_quantized_models_are_compared_document_by_document() -> None:
    base, pick = two_runs()
    text = {"0": 0.1, "1": 0.3, "2": 0.5, "3": 0.7}
    shown = column("ratio_4", [rounded(base, text)])
    # e^0.4 = 1.492, times the standard error of the four numbers, 0.129.
    assert cells(shown, [rounded(base, text)])[0].text == "1.492 ± 0.193"
    less = {document: loss - 0.1 + 0.01 * int(document) for document, loss in text.items()}
    mixed = {"0": 0.5, "1": 0.0, "2": 0.0, "3": 0.5}
    assert told_apart("ratio_4", [rounded(base, text), rounded(pick, less)])
    assert not told_apart("ratio_4", [rounded(base, text), rounded(pick, mixed)])
    others = {f"1{document}": loss for document, loss in less.items()}
    assert not told_apart("ratio_4", [rounded(base, text), rounded(pick, others)])


def test_an_interval_stands_beside_its_number() -> None:
    base, _ = two_runs()
    known = {"garbage": 256, "tokens": 90, "tests": 10, "loss": 0.1, "accuracy": 1.0, "interval": [0.72, 1.0]}
    base.results["passkey"] = {"protocol": {}, "results": {}, "subject": {}}
    found = changed(base, "passkey", results={"lengths": {"256": known}, "skipped": []})
    assert cells(column("passkey_passkey in 256", [found]), [found])[0].text == "1.00 [0.72 to 1.00]"


def test_speed_from_a_log_shows_its_spread_and_ranks_nobody() -> None:
    """The median of what was logged, and the range of nine in ten readings, which a busy machine makes wide."""

    def at(measured: Measured, *rates: float) -> Measured:
        return replace(
            measured, metrics=[{"step": step, "tokens_per_second": rate} for step, rate in enumerate(rates)]
        )

    base, _ = two_runs()
    busy = at(base, *[300] * 20, 800, *[1200] * 20)
    shown = column("logged_speed", [busy])
    assert cells(shown, [busy])[0].text == "800 [300 to 1,200]"
    assert shown.better is None
    assert not shown.headline


def test_documents_of_the_same_text_are_compared_one_by_one() -> None:
    def lost(measured: Measured, bits: list[float]) -> Measured:
        entry = measured.results["lengths"]["results"]["lengths"]["32"]
        parts = {str(number): loss for number, loss in enumerate(bits)}
        entry = {**entry, "bits_per_byte": sum(bits) / len(bits), "by_document": parts}
        return changed(measured, "lengths", results={"lengths": {"32": entry}})

    base, pick = two_runs()
    text = [2.0, 3.0, 2.5, 3.5]
    lower = [1.98, 2.99, 2.48, 3.49]
    mixed = [1.0, 3.6, 2.2, 3.6]
    assert told_apart("bits_1x", [lost(base, text), lost(pick, lower)])
    assert not told_apart("bits_1x", [lost(base, text), lost(pick, mixed)])


def test_the_raw_sink_rate_ranks_nobody() -> None:
    assert column("sink_raw", two_runs()).better is None
    assert column("sink_renormalised", two_runs()).better == "lower"


def test_a_heading_names_the_windows_of_its_own_numbers() -> None:
    def of_length(measured: Measured, length: int) -> Measured:
        return changed(measured, "activations", protocol={"windows": {"length": length, "windows": 64}})

    base, pick = two_runs()
    groups = {entry.key: entry.group for entry in columns([of_length(base, 16), of_length(pick, 16)])}
    assert groups["sink_raw"] == groups["dead"] == "What attention does (windows of 32 tokens)"
    assert groups["kurtosis"] == groups["largest"] == "Residual stream (windows of 16 tokens)"
    unlike = [of_length(base, 16), of_length(pick, 128)]
    assert column("kurtosis", unlike).group == "Residual stream (windows of 16 to 128 tokens)"
