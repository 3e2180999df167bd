"""Speeds of variants: measured in turns, compared round by round."""

import json

import numpy as np
import pytest

from common.errors import InputError
from eval.report.pairs import Group
from study import __main__ as command
from study import speed
from study.definition import load
from study.evidence import gather
from study.speed import Speeds
from study.tasks import asked, end, tasks
from study.work import work
from tests.study.conftest import FILE


def speeds(seconds: dict[str, list[float]], load: float | None = 0.1) -> Speeds:
    return Speeds(dict.fromkeys(seconds, 100), seconds, {"processor": "abacus"}, load, "2026-01-01 10:00:00")


def compared(base: list[float], mine: list[float]) -> speed.Number:
    found = speeds({"softmax": base, "softpick": mine})
    return speed.number(found, [Group("softmax", {}), Group("softpick", {}), Group("absent", {})])


def test_a_variant_is_compared_round_by_round():
    """Twice the speed in each round, whatever else the machine did."""
    busy = [0.1 + 0.05 * (place % 3) for place in range(9)]
    found = compared([2 * spent for spent in busy], busy)
    assert found.differences["softpick"].mean == pytest.approx(100)
    assert found.verdict("softpick") == "better"
    assert found.means["softmax"].mean == pytest.approx(np.median([50 / spent for spent in busy]))
    assert found.difference("softpick") == "+100.0 % [+100.0 % to +100.0 %]"
    assert found.difference("absent") == found.mean("absent") == "–"


def test_speeds_that_cross_are_open():
    found = compared([0.1] * 8, [0.09, 0.11, 0.08, 0.12, 0.1, 0.105, 0.095, 0.1])
    low, high = found.differences["softpick"].low, found.differences["softpick"].high
    assert low is not None
    assert high is not None
    assert low < 0 < high
    assert found.verdict("softpick") is None
    assert compared([0.1] * 5, [0.2] * 5).differences["softpick"].low is None, "five rounds have no interval"


def test_the_interval_of_a_median_holds_it():
    """Nineteen times of twenty at least, also where values are skewed."""
    drawn = np.random.default_rng(0).lognormal(size=(2000, 15))
    ends = [speed._median(list(row)) for row in drawn]
    assert np.mean([found.low < 1 < found.high for found in ends]) > 0.95


def test_a_busy_machine_is_said():
    assert "was busy (load 3.0 per core)" in speed.condition(speeds({"softmax": [0.1]}, load=3.0))
    assert "busy" not in speed.condition(speeds({"softmax": [0.1]}))


@pytest.mark.parametrize(
    "seconds",
    [
        {},
        {"softmax": []},
        {"softmax": [0.1], "softpick": [0.1, 0.2]},
        {"softmax": [0.0]},
        {"softmax": [None]},
    ],
)
def test_a_damaged_file_of_speeds_is_one_line(study, seconds):
    study.folder.mkdir(parents=True)
    content = {"tokens": {"softmax": 1, "softpick": 1}, "machine": {}, "load": None, "measured": ""}
    speed.path_of(study).write_text(json.dumps(content | {"seconds": seconds}))
    with pytest.raises(InputError, match=r"speed\.json is not what .* wrote; delete it and measure again"):
        speed.read(study)


def test_runs_that_choose_the_value_zero_are_not_those_of_the_study(write):
    study = load(write(tuning={"key": "train.weight_decay", "values": [0.0, 0.1], "seeds": [9]}))
    study.folder.mkdir(parents=True)
    for task in tasks(study):
        if task.value is not None:
            (study.folder / task.name).mkdir()
            (study.folder / task.name / "metrics.jsonl").write_text('{"step": 6, "bits_per_byte": 1.0}\n')
            end(study, task, asked(study, task), 1.0, None)
    with pytest.raises(InputError, match="must be trained before speeds compare"):
        speed.measure(study, 6)


@pytest.mark.slow
def test_the_speed_of_a_study_is_measured_and_shown(write, capsys):
    grid = FILE["grid"]["attention"] | {"longer": ["train.steps=24"], "shorter": ["train.steps=2"]}
    claim = FILE["claims"][0] | {"metric": "bits_at_equal_time"}
    path = write(
        grid={"attention": grid}, seeds=[1], analyses=[], metrics=["bits_at_equal_time"], claims=[claim]
    )
    with pytest.raises(ValueError, match="must be trained before speeds compare"):
        command.main(["speed", str(path)])
    work(path, None)
    command.main(["report", str(path)])
    assert "Open: steps have not been timed; python -m study speed" in capsys.readouterr().out
    with pytest.raises(ValueError, match="--rounds must be at least 6"):
        command.main(["speed", str(path), "--rounds", "5"])
    command.main(["speed", str(path), "--rounds", "6"])
    study = load(path)
    stored = json.loads((study.folder / "speed.json").read_text())
    assert {name: len(spent) for name, spent in stored["seconds"].items()} == dict.fromkeys(grid, 6)
    found = gather(study).number("speed")
    assert found.differences["softpick"].low is not None
    assert gather(study).number("bits_at_equal_time").values["softpick"]
    command.main(["report", str(path)])
    page = (study.folder / "report.html").read_text()
    assert "of the median of 6 rounds" in page
    assert "Speed: 6 steps of each variant in turns" in page
    assert page.count("<b>One seed:</b>") == 1
