"""The page of a study: many variants, several axes, gaps, and what a reader does with it."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from eval.intervals import Interval
from eval.report.comparison import columns
from eval.report.forest import compared, figure, panels
from eval.report.numbers import number
from eval.report.pairs import Group
from study import page, report
from study.claims import Claim, verdicts
from study.definition import File, Study
from study.evidence import Evidence
from study.seal import Seal
from tests.eval.examples import without
from tests.eval.test_pairs import seeded

METRICS = ["bits_per_byte", "bits_4x", "bits_16x", "ratio_3", "sink_renormalised", "kurtosis", "order_acc"]


def evidence(grid: dict[str, list[str]], seeds: int = 3, claims: tuple[Claim, ...] = ()) -> Evidence:
    """A study of invented numbers: the second variant has no run, the third lacks an analysis, the last diverged."""
    axes = {axis: {part: [] for part in parts} for axis, parts in grid.items()}
    study = Study(
        "made", Path("configs/studies/made.yaml"), Path("base.yaml"), File("base.yaml", axes, "", []), {}
    )
    names = ["-".join(parts) for parts in study.parts.values()]
    file = File("base.yaml", axes, names[0], list(range(1, seeds + 1)), metrics=METRICS, claims=list(claims))
    study = Study("made", study.path, study.base, file, {name: [] for name in names})
    generator = np.random.default_rng(0)
    runs: dict[str, Any] = {}
    for place, name in enumerate(names):
        shift = 9.0 if place and name == names[-1] else 0.03 * np.sin(place)
        bits = {seed: 1.5 + 0.1 * seed + shift + generator.normal(0, 0.005) for seed in file.seeds}
        runs[name] = {run.config["seed"]: run for run in seeded(name, name, bits) if run.config}
    if len(names) > 3:
        runs[names[1]] = {}
        runs[names[2]] = {seed: without(run, "lengths") for seed, run in runs[names[2]].items()}
    known = {
        column.key: column for column in columns([run for some in runs.values() for run in some.values()])
    }
    groups = [Group(name, some) for name, some in runs.items()]
    numbers = [number(known[key], groups) for key in METRICS]
    values: Any = {entry.key: entry.values for entry in numbers}
    return Evidence(study, runs, numbers, verdicts(claims, values))


def written(found: Evidence, path: Path) -> Path:
    path.write_text(page.render(found, Seal(found.study.file.claims, "f", [1, 2, 3], "2026-01-01 10:00:00")))
    return path


ZOO = {"attention": ["softmax", *(f"mechanism_{place}" for place in range(24))]}
AXES = {"attention": ["softmax", "softpick"], "optimizer": ["adamw", "muon"], "norm": ["rms", "single"]}
CLAIMS = (
    Claim("worse", "It loses.", "bits_per_byte", ["mechanism_23", "softmax"], "higher", 0.01, "arXiv 1"),
    Claim("same", "Nothing changes.", "bits_per_byte", ["mechanism_3", "softmax"], "same", 0.05),
    Claim("absent", "It is there.", "bits_4x", ["mechanism_0", "softmax"], "higher", 0.05),
)


@pytest.mark.slow
def test_a_forest_of_twenty_five_mechanisms_and_seven_numbers_is_the_first_screen(visit, tmp_path):
    opened = visit(written(evidence(ZOO), tmp_path / "zoo.html"), viewport={"width": 1440, "height": 900})
    rows = opened.locator(".forest tbody tr")
    assert rows.count() == 25
    assert opened.locator(".forest thead th").count() == 8
    last = rows.last.bounding_box()
    assert last["y"] + last["height"] <= 900
    assert last["x"] + last["width"] <= 1440
    assert not opened.locator("#differences .goes-on").count(), "nothing is hidden at a side"
    gap = opened.locator("tr[data-variant=mechanism_0] td.missing")
    assert gap.all_text_contents()[0].strip() == "–"
    assert opened.locator(".forest tr[data-variant=mechanism_1] td.missing").count() == 2


@pytest.mark.slow
def test_parts_of_names_switch_all_variants_that_have_them(visit, tmp_path):
    opened = visit(written(evidence(AXES), tmp_path / "axes.html"))
    rows = opened.locator(".forest tbody tr")
    assert rows.locator("th").all_text_contents()[2].split() == ["softmax", "muon", "·", "rms"]
    muon = opened.locator("#differences").get_by_role("button", name="muon", exact=True)
    muon.click()
    shown = [row.get_attribute("data-variant") for row in rows.all() if row.is_visible()]
    assert shown == [
        "softmax-adamw-rms",
        "softmax-adamw-single",
        "softpick-adamw-rms",
        "softpick-adamw-single",
    ]
    assert muon.get_attribute("aria-pressed") == "false"
    muon.click()
    assert rows.last.is_visible()


@pytest.mark.slow
def test_verdicts_are_sentences_and_their_grounds_are_folded(visit, tmp_path):
    opened = visit(written(evidence(ZOO, claims=CLAIMS), tmp_path / "zoo.html"))
    assert "1 confirmed, 0 refuted, 2 undecided" in opened.locator("#verdicts h2").text_content()
    first = opened.locator(".verdicts li").first
    assert first.locator("p").first.text_content() == "It loses."
    grounds = first.locator("details p")
    assert not grounds.is_visible()
    first.locator("summary").click()
    assert "Claimed above +0.0100; corrected p = " in grounds.text_content()
    assert "from arXiv 1. Seeds 1, 2, 3." in grounds.text_content()
    assert "Open: no seed has been measured." in opened.locator(".verdicts li").last.text_content()


@pytest.mark.slow
def test_a_study_of_one_seed_says_so_once(tmp_path):
    text = written(evidence(ZOO, seeds=1), tmp_path / "one.html").read_text()
    assert text.count("<b>One seed:</b>") == 1
    assert 'class="number better"' not in text
    assert 'class="number worse"' not in text


def test_a_variant_that_diverged_does_not_hide_the_rest():
    """Its end is cut off and says so; the others keep half of the scale."""
    (bits, *_) = panels(evidence(ZOO).numbers)
    far = bits.cells["mechanism_23"]
    assert far.text == "+9.0026"
    assert (far.dot, far.cut) == (100, "right")
    usual = [cell.dot for name, cell in bits.cells.items() if name != "mechanism_23"]
    assert max(usual) - min(usual) > 25
    assert all(not cell.cut for name, cell in bits.cells.items() if name != "mechanism_23")


def test_a_figure_shows_what_lies_beyond_its_scale():
    """As an arrow at its edge, with the number."""
    found = evidence(ZOO)
    (axes, *_) = figure(compared(found.numbers), ZOO["attention"]).axes
    texts = [text.get_text() for text in axes.texts]
    arrows = [line for line in axes.lines if line.get_marker() == ">"]
    assert texts == ["+9.0026"]
    assert [line.get_xdata()[0] for line in arrows] == [axes.get_xlim()[1]]


def test_a_scale_shows_differences_of_many_where_others_have_none():
    """As the mass of a row, which is one for half of the mechanisms."""
    found = evidence(ZOO).numbers[0]
    pairs = {}
    for place, (name, pair) in enumerate(found.pairs.items()):
        mean = -0.5 if place % 2 else 1e-9
        pairs[name] = replace(pair, interval=Interval(mean, mean - 1e-3, mean + 1e-3))
    (panel,) = panels([replace(found, pairs=pairs)])
    assert not any(cell.cut for cell in panel.cells.values())


def test_places_of_a_forest_are_those_of_the_numbers():
    (bits, *_) = panels(evidence({"attention": ["softmax", "softpick", "swat"]}).numbers)
    for name, found in bits.number.differences.items():
        cell = bits.cells[name]
        assert found.low is not None
        assert found.high is not None
        assert cell.bar is not None
        scale = (cell.dot - bits.zero) / found.mean
        assert cell.bar[0] == pytest.approx(bits.zero + scale * found.low, abs=0.1)
        assert cell.bar[0] + cell.bar[1] == pytest.approx(bits.zero + scale * found.high, abs=0.1)
        assert (cell.kind == "open") == (found.low < 0 < found.high)


def test_ties_have_a_place_and_no_verdict():
    """Sink rates that are the same for all seeds."""
    panel = panels(evidence({"attention": ["softmax", "softpick"]}).numbers)[
        METRICS.index("sink_renormalised")
    ]
    cell = panel.cells["softpick"]
    assert (cell.text, cell.kind, cell.bar) == ("+0.0 pp", "open", None)
    assert cell.dot == panel.zero == 50
    assert "the same with each of 3 seeds" in cell.words


def test_the_plain_sentence_of_a_verdict_names_difference_seeds_and_interval():
    found = evidence(ZOO, claims=CLAIMS)
    said = report.said(found.verdicts[0], found.number("bits_per_byte"))
    assert said.startswith("validation bits/byte, mechanism_23 − softmax: +9.0026 [+8.9")
    assert said.endswith("over 3 seeds.")


def test_conditions_name_every_machine_that_trained() -> None:
    found = evidence({"attention": ["softmax", "softpick"]})
    sealed = Seal([], "f", [1, 2, 3], "2026-01-01 10:00:00")
    assert not any(line.startswith("Trained on") for line in report.conditions(found, sealed)), (
        "none is recorded"
    )
    for variant, processor in (("softmax", "EPYC"), ("softpick", "Xeon")):
        for seed, run in found.runs[variant].items():
            record = {"machine": {"processor": processor, "cores": "2"}, "versions": {"torch": "2.13.0"}}
            found.runs[variant][seed] = replace(run, record=record)
    assert (
        "Trained on processor EPYC, cores 2, torch 2.13.0; processor Xeon, cores 2, torch 2.13.0."
        in report.conditions(found, sealed)
    )
