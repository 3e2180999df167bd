"""Which numbers compare, which of them is the best, and what a heading says of them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from eval import pairs
from eval.comparison import Column, Measured, cells, columns, disagreements
from eval.findings import checks
from eval.report import Report
from tests.eval.test_report import page_of, run


def column(key: str, runs: list[Measured]) -> Column:
    return next(column for column in columns(runs) if column.key == key)


def changed(measured: Measured, name: str, **parts: Mapping[str, Any]) -> Measured:
    """The run with other entries in the protocol or the results of an analysis."""
    files = copy.deepcopy(dict(measured.results))
    for part, entries in parts.items():
        files[name] = {**files[name], part: {**files[name][part], **entries}}
    return replace(measured, results=files)


def best(key: str, runs: list[Measured]) -> list[str]:
    found = cells(column(key, runs), runs)
    return [measured.name for measured, cell in zip(runs, found, strict=True) if cell.best]


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
    assert best("kurtosis", runs) == ["pick"]
    assert len(pairs.compare(column("kurtosis", runs), runs)) == 1
    runs[1] = changed(runs[1], "activations", protocol={entry: value})
    assert disagreements(column("kurtosis", runs), runs) == [entry]
    assert best("kurtosis", runs) == []
    assert pairs.compare(column("kurtosis", runs), runs) == []
    assert any(check.holds is False and f"activations: {entry}" in check.detail for check in checks(runs))


@pytest.mark.parametrize("entry", ["device", "train_length", "max_length"])
def test_what_decides_no_number_does_not_matter(entry: str) -> None:
    runs = two_runs()
    runs[1] = changed(runs[1], "activations", protocol={entry: "other"})
    assert best("kurtosis", runs) == ["pick"]


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
    assert best("sink_renormalised", runs) == ["pick"]
    assert not any("sinks" in check.detail for check in checks(runs))
    runs[1] = changed(runs[1], "sinks", protocol={"windows": {"64": {"length": 64, "windows": 7}}})
    assert disagreements(shown, runs) == ["windows"]


def test_multiples_of_different_lengths_do_not_compare() -> None:
    runs = two_runs()
    runs[1] = changed(runs[1], "lengths", results={"train_length": 48})
    assert disagreements(column("bits_4x", runs), runs) == ["length"]


def scored(measured: Measured, value: float, stderr: float | None) -> Measured:
    """The run with this accuracy in a task of the harness."""
    metric = {"value": value, "stderr": stderr, "higher_is_better": True}
    task = {"chance": 0.5, "metrics": {"acc": metric}}
    return changed(measured, "harness", results={"tasks": {"order": task}})


@pytest.mark.parametrize(
    ("other", "stderr", "marked"),
    [(0.56, 0.03, []), (0.50, 0.03, ["base"]), (0.56, None, ["base"]), (0.5998, 0.0, [])],
)
def test_no_winner_within_the_noise(other: float, stderr: float | None, marked: list[str]) -> None:
    """The standard error of a difference of two such numbers is 0.042, so 0.083 is the least that counts."""
    runs = [scored(measured, 0.6, stderr) for measured in two_runs()]
    runs[1] = scored(runs[1], other, stderr)
    assert best("order_acc", runs) == marked
    # A third that is far behind changes nothing.
    assert best("order_acc", [*runs, scored(run("far", "swat", 1.6), 0.1, stderr)]) == (
        marked or (["base", "pick"] if other > 0.5995 else [])
    )


def test_the_noise_of_a_quantized_model_is_its_interval() -> None:
    def rounded(measured: Measured, ratio: float) -> Measured:
        score = {"perplexity_ratio": ratio, "weight_error": 0.1, "interval": 0.0196}
        return changed(measured, "quantize", results={"bits": {"4": score}})

    base, pick = two_runs()
    shown = column("ratio_4", [rounded(base, 1.5)])
    assert cells(shown, [rounded(base, 1.5)])[0].text == "1.500 ± 0.015"
    assert best("ratio_4", [rounded(base, 1.5), rounded(pick, 1.47)]) == []
    assert best("ratio_4", [rounded(base, 1.5), rounded(pick, 1.45)]) == ["pick"]


@pytest.mark.parametrize(
    ("right", "interval", "marked"), [(0.7, [0.4, 0.89], []), (0.6, [0.31, 0.83], ["base"])]
)
def test_intervals_that_are_not_symmetric_count_on_the_side_that_faces_the_other(
    right: float, interval: list[float], marked: list[str]
) -> None:
    """10 of 10 keys against 7 and 6: 0.3 is within hypot(1 - 0.72, 0.89 - 0.7) = 0.34, 0.4 is not within 0.36."""

    def found(measured: Measured, accuracy: float, ends: list[float]) -> Measured:
        lengths = {"256": {"accuracy": accuracy, "interval": ends}}
        return changed(measured, "passkey", results={"lengths": lengths})

    base, pick = two_runs()
    base.results["passkey"] = pick.results["passkey"] = {"protocol": {}, "results": {}, "subject": {}}
    runs = [found(base, 1.0, [0.72, 1.0]), found(pick, right, interval)]
    shown = column("passkey_passkey in 256", runs)
    assert cells(shown, runs)[0].text == "1.00 [0.72, 1.00]"
    assert best("passkey_passkey in 256", runs) == marked


def test_windows_of_the_same_text_are_compared_one_by_one() -> None:
    def lost(measured: Measured, nats: list[float]) -> Measured:
        entry = measured.results["lengths"]["results"]["lengths"]["32"]
        loss = sum(nats) / len(nats)
        entry = {**entry, "loss": loss, "bits_per_byte": 2 * loss, "per_window": nats}
        return changed(measured, "lengths", results={"lengths": {"32": entry}})

    base, pick = two_runs()
    text = [2.0, 3.0, 2.5, 3.5]
    lower = [1.98, 2.99, 2.48, 3.49]
    mixed = [1.0, 3.6, 2.2, 3.6]
    assert best("bits_1x", [lost(base, text), lost(pick, lower)]) == ["pick"]
    assert best("bits_1x", [lost(base, text), lost(pick, mixed)]) == []


def test_the_raw_sink_rate_ranks_nobody() -> None:
    assert best("sink_raw", two_runs()) == []
    assert best("sink_renormalised", two_runs()) == ["pick"]


def test_the_rule_of_the_marks_is_written_beneath_the_tables() -> None:
    runs = two_runs()
    assert "the 95 % interval of the difference" in " ".join(Report("A", runs, {}).text().split())
    assert "the 95 % interval of the difference" in page_of(runs)


def test_a_heading_names_the_windows_of_its_own_numbers() -> None:
    def of_length(measured: Measured, length: int) -> Measured:
        return changed(measured, "activations", protocol={"windows": {"length": length, "windows": 64}})

    base, pick = two_runs()
    groups = {entry.key: entry.group for entry in columns([of_length(base, 16), of_length(pick, 16)])}
    assert groups["sink_raw"] == groups["dead"] == "What attention does (windows of 32 tokens)"
    assert groups["kurtosis"] == groups["largest"] == "Residual stream (windows of 16 tokens)"
    unlike = [of_length(base, 16), of_length(pick, 128)]
    assert column("kurtosis", unlike).group == "Residual stream (windows of 16 to 128 tokens)"
