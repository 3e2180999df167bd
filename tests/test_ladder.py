"""The ladder of recipes: its rungs, its arithmetic, and a whole one of models that train in seconds."""

import json
import math
import shutil
from pathlib import Path

import pytest

from benchmarks import ladder, rungs
from benchmarks.rungs import LONGER, PAPER, Outcome, Rung
from common.configs import parents
from tests.training.conftest import ROOT, cache, corpus, fresh_accelerate, tiny_yaml  # noqa: F401
from training import load


@pytest.fixture
def tiny(tiny_yaml: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: F811
    """A folder that has the shipped recipes, and a size whose models train in a second."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setitem(rungs.SIZES, "tiny", str(tiny_yaml))
    return tmp_path


@pytest.mark.slow
def test_a_rung_is_paper_with_one_ingredient_and_modern_has_its_list(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    found = rungs.ladder("nano", more=True)
    names = [rung.name for rung in found]
    assert len(set(names)) == len(names)
    files = {path.stem for path in (ROOT / "configs/recipes/ingredients").iterdir()}
    assert {f"+ {name}" for name in files} <= set(names)
    listed = parents(rungs.MODERN)
    for part in listed:
        rung = next(rung for rung in found if rung.name == f"modern - {part.stem}")
        assert set(rung.files) == set(listed) - {part}
    wide = next(rung for rung in found if "wide" in rung.name).config("nano", 1).model
    narrow = load(rungs.SIZES["nano"]).model
    assert (wide.mlp, wide.d_ff, narrow.d_ff) == ("relu_squared", 768, None)
    folders = [rung.config("nano", 1).name for rung in found]
    assert len(set(folders)) == len(folders)


@pytest.mark.slow
def test_a_sweep_changes_one_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    swept = rungs.sweep("nano")
    rates = [rung.config("nano", 0).train.learning_rate for _, rung in swept["AdamW: train.learning_rate"]]
    assert rates == [1.5e-3, 3e-3, 6e-3, 1.2e-2]
    muon = [rung.config("nano", 0).train for _, rung in swept["Muon: train.muon_rate"]]
    assert [(train.optimizer, train.learning_rate, train.muon_rate) for train in muon] == [
        ("muon", 3e-3, k) for k in (0.5, 1.0, 2.0, 4.0)
    ]


def outcomes(losses: dict[str, list[float]]) -> ladder.Outcomes:
    return {
        name: {seed: Outcome(loss, 2 * loss, 3.0 + seed, 1000, "") for seed, loss in enumerate(of_seed, 1)}
        for name, of_seed in losses.items()
    }


def test_differences_are_paired_and_equal_time_grants_paper_its_steps() -> None:
    found = outcomes({"paper": [3.0, 4.0, 5.0], "+ a": [2.9, 3.91, 4.89], LONGER: [2.8, 3.8, 4.8]})
    per_step, per_time = ladder.against(found, "+ a", {"paper": [9.0, 1.0, 1.0], "+ a": [2.0, 2.0, 2.0]})
    assert per_step.mean == pytest.approx(-0.1)
    assert per_step.half == pytest.approx(4.302653 * 0.01 / math.sqrt(3), rel=1e-5)
    # Steps twice as long: paper would have made twice as many, which bring it 0.2.
    assert per_time is not None
    assert per_time.mean == pytest.approx(0.1)
    assert per_time.half == pytest.approx(per_step.half)
    assert (per_step.sign, per_time.sign) == (-1, 1)
    assert ladder.against(found, "+ a", {})[1] is None


def test_seeds_that_only_one_of_two_has_are_left_out() -> None:
    found = outcomes({"paper": [3.0, 4.0], "+ a": [2.9]})
    per_step, per_time = ladder.against(found, "+ a", {})
    assert (per_step.mean, per_step.half, per_time) == (pytest.approx(-0.1), None, None)
    text = ladder.page("nano", found, {}, {})
    assert "| paper | 2 | 0.00 | 3.5000 | – | – | – | 4.47 |" in text
    assert "| + a | 1 | 0.00 | 2.9000 | -0.1000 | – | – | 4 |" in text


@pytest.mark.slow
def test_a_whole_ladder_goes_on_where_it_was(
    tiny: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    few = [PAPER, Rung("modern", (rungs.MODERN,)), Rung(LONGER, (), ("train.steps=12",))]
    monkeypatch.setattr(ladder, "ladder", lambda size, more: few)
    command = ["--size", "tiny", "--seeds", "2", "--rounds", "2"]
    ladder.main([*command, "--limit", "2"])
    assert "| paper | 1 |" in capsys.readouterr().out
    (first,) = tiny.glob("runs/ladder/tiny/paper-1-*")
    kept = json.loads((first / "rung.json").read_text())
    before = (first / "metrics.jsonl").stat().st_mtime_ns
    ladder.main([*command, "--write", "."])
    assert (first / "metrics.jsonl").stat().st_mtime_ns == before
    page = (tiny / "benchmarks/results/ladder-tiny.md").read_text()
    assert page in capsys.readouterr().out
    assert all(f"| {name} | 2 |" in page for name in ("paper", "modern", LONGER))
    raw = json.loads((tiny / "benchmarks/results/ladder-tiny.json").read_text())
    assert raw["rungs"]["paper"]["1"] == kept
    assert raw["rungs"][LONGER]["2"]["loss"] < raw["rungs"]["paper"]["2"]["loss"]
    assert set(raw["step_seconds"]) == {"paper", "modern"}
    assert raw["rungs"]["modern"]["1"]["parameters"] > kept["parameters"]
    # What was written down needs no run, but only where the config is the same.
    shutil.rmtree(tiny / "runs")
    monkeypatch.setattr(ladder, "climb", None)
    ladder.main([*command, "--rounds", "0"])
    assert "| paper | 2 |" in capsys.readouterr().out
    few[0] = Rung("paper", (), ("train.learning_rate=0.5",))
    ladder.main([*command, "--rounds", "0", "--limit", "0"])
    assert "| paper |" not in capsys.readouterr().out
