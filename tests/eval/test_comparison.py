"""Which numbers compare, which of them is the best, and what a heading says of them."""

import copy
from collections.abc import Mapping
from dataclasses import replace
from typing import Any

import pytest

from eval import pairs
from eval.comparison import Column, Measured, cells, columns, disagreements
from eval.findings import checks
from tests.eval.test_report import run


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
