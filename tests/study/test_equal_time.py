"""Loss at equal time: what the baseline is granted, and the ladder of recipes that asks for it."""

import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.configs import parents
from common.errors import InputError
from eval.report.numbers import Number, number
from eval.report.pairs import Group
from study import equal_time
from study.definition import Study, load
from study.speed import Speeds
from tests.eval.test_pairs import seeded

ROOT = Path(__file__).parents[2]
RECIPES = ROOT / "configs" / "recipes"
LADDERS = sorted((ROOT / "configs" / "studies").glob("ladder*.yaml"))

GRID = {
    "recipe": {
        "paper": [],
        "slow": ["model.qk_norm=true"],
        "quick": ["train.batch_size=4"],
        "half": ["train.steps=50"],
        "double": ["train.steps=200", "train.warmup_steps=3"],
    }
}
BITS = {
    "paper": {1: 3.0, 2: 3.4},
    "slow": {1: 2.9, 2: 3.1},
    "quick": {1: 3.0, 2: 3.5},
    "half": {1: 3.4, 2: 3.6},
    "double": {1: 2.8, 2: 3.1},
}
STEPS = {"half": 50, "double": 200}


@pytest.fixture
def ladder(write: Any) -> Study:
    return load(write(grid=GRID, baseline="paper", claims=[], metrics=["bits_at_equal_time"]))


def timed(**seconds: list[float]) -> Speeds:
    return Speeds(dict.fromkeys(seconds, 100), seconds, {}, None, "2026-01-01 10:00:00")


def measured(ladder: Study, speeds: Speeds | None) -> Number:
    runs: dict[str, dict[int | None, Any]] = {
        name: {
            run.config["seed"]: replace(run, step=STEPS.get(name, 100))
            for run in seeded(name, name, bits)
            if run.config
        }
        for name, bits in BITS.items()
    }
    column = equal_time.column(ladder, speeds, runs)
    return number(column, [Group(name, some) for name, some in runs.items()])


def test_the_baseline_is_granted_what_it_gains_in_the_time_of_the_other(ladder: Study) -> None:
    """√2 times the time is half the way to twice the steps, in the logarithm; machines that are busy change nothing."""
    base = [0.1, 0.3, 0.2]
    speeds = timed(paper=base, slow=[math.sqrt(2) * t for t in base], quick=[t / 2 for t in base])
    found = measured(ladder, speeds)
    assert found.values["paper"] == pytest.approx(BITS["paper"])
    assert found.values["slow"] == pytest.approx({1: 2.9 + 0.1, 2: 3.1 + 0.15})
    assert found.values["quick"] == pytest.approx({1: 3.0 - 0.4, 2: 3.5 - 0.2})
    assert np.allclose(found.pairs["slow"].differences, [0.0, 3.25 - 3.4])
    assert {name for name, some in found.values.items() if some} == {"paper", "slow", "quick"}


def test_beyond_the_lengths_of_the_baseline_there_is_no_number(ladder: Study) -> None:
    found = measured(ladder, timed(paper=[0.1], slow=[0.21], quick=[0.04]))
    assert found.means.keys() == {"paper"}
    assert found.difference("slow") == "–"


def test_without_times_there_is_no_number(ladder: Study) -> None:
    assert not measured(ladder, None).means


def test_a_grid_without_another_length_is_refused(write: Any) -> None:
    study = load(write())
    with pytest.raises(InputError, match=r"needs a variant that differs from softmax in train\.steps alone"):
        equal_time.column(study, None, {})


@pytest.mark.parametrize("path", LADDERS, ids=lambda path: path.stem)
def test_every_ingredient_is_a_rung(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(ROOT)
    study = load(path)
    common = len(study.file.overrides)
    laid = {name: study.overrides(name)[common:] for name in study.variants}
    files = sorted((RECIPES / "ingredients").glob("*.yaml"))
    # Behind its file a rung sets a rate of its own where none is tuned, and nothing else.
    rungs = {file.stem: str(file.relative_to(ROOT)) for file in files}
    for name, file in {**rungs, "modern": "configs/recipes/modern.yaml"}.items():
        assert laid[name][0] == file
        assert all(change.startswith("train.learning_rate=") for change in laid[name][1:])
        assert len(laid[name]) == 1 or study.file.tuning is None
    assert {file.resolve() for file in parents(RECIPES / "modern.yaml")} <= set(files)
    assert study.lengths == ["paper", "paper_half", "paper_double"]
