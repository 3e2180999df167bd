"""The file of a study: what it means, and what is refused before anything is run."""

from pathlib import Path

import pytest

from common.errors import InputError
from study.definition import load, options_of
from tests.study.conftest import FILE

STUDIES = sorted((Path(__file__).parents[2] / "configs" / "studies").glob("*.yaml"))


@pytest.mark.parametrize("path", STUDIES, ids=lambda path: path.stem)
def test_the_studies_that_come_along_can_be_run(path):
    study = load(path)
    assert study.base.is_file()
    assert study.file.baseline in study.variants


def test_a_variant_is_one_part_of_every_axis(write):
    grid = FILE["grid"] | {"optimizer": {"adamw": [], "muon": ["train.optimizer=muon"]}}
    study = load(write(grid=grid, baseline="softmax-adamw", claims=[]))
    assert study.variants == {
        "softmax-adamw": [],
        "softmax-muon": ["train.optimizer=muon"],
        "softpick-adamw": ["model.attention=softpick"],
        "softpick-muon": ["model.attention=softpick", "train.optimizer=muon"],
    }


def test_a_study_that_extends_another_says_what_is_different(write):
    path = write(overrides=["train.clip=0.5", "recipes/muon.yaml"])
    child = path.with_name("child.yaml")
    child.write_text("extends: tiny.yaml\nseeds: [7]\ngrid: {attention: {softpick: [model.qk_norm=true]}}\n")
    study = load(child)
    assert (study.name, study.file.seeds, study.file.claims) == ("child", [7], load(path).file.claims)
    assert study.variants == {"softmax": [], "softpick": ["model.qk_norm=true"]}
    assert study.overrides("softpick") == ["train.clip=0.5", "recipes/muon.yaml", "model.qk_norm=true"]


def test_configs_lie_where_the_file_of_the_study_does(write, monkeypatch):
    path = write(overrides=["recipes/muon.yaml"])
    monkeypatch.chdir(path.parent.parent)
    assert load(path).overrides("softmax") == [f"{path.parent.name}/recipes/muon.yaml"]


def test_an_analysis_stands_as_after_python_m_eval():
    assert options_of("sinks --lengths 16,32") == ("sinks", ["--lengths", "16,32"])


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"baseline": "softmaxx"}, "no variant 'softmaxx' for baseline; did you mean 'softmax'"),
        ({"baseline": None}, "missing entry .*baseline"),
        ({"sedes": [1]}, "unknown entry .*sedes"),
        ({"overrides": ["seed=3"]}, "overrides: the study itself sets seed of each run"),
        (
            {"grid": {"start": {"softmax": [], "softpick": ["seed=7"]}}},
            r"grid.start: the study itself sets seed of each run",
        ),
        (
            {"tuning": {"key": "out", "values": [1], "seeds": [9]}},
            r"tuning.key: the study itself sets out of each run",
        ),
        ({"seeds": "1"}, "entry .*seeds is of another type"),
        ({"seeds": []}, "seeds must not be empty"),
        ({"seeds": [1, 1]}, "seeds holds an entry twice: 1, 1"),
        ({"grid": {}}, "grid needs an axis"),
        ({"grid": {"attention": {"a/b": []}}, "baseline": "a/b"}, "the name 'a/b' must be letters"),
        ({"grid": {"layers": {4: []}}, "baseline": "4"}, "layers has the key 4, which is no text; in quotes"),
        ({"analyses": ["sink"]}, "'sink'"),
        ({"analyses": ["sinks --lenghts 3"]}, "analysis sinks"),
        ({"analyses": ["sinks", "sinks --lengths 16"]}, "analyses holds an entry twice"),
        ({"analyses": ["sinks '"]}, "cannot be read"),
        (
            {"tuning": {"key": "train.learning_rate", "values": [1e-3], "seeds": [2]}},
            "2 is a seed of the study",
        ),
        (
            {"tuning": {"key": "train.learning_rate", "values": [], "seeds": [9]}},
            "tuning.values must not be empty",
        ),
        ({"claims": [{"name": "x"}]}, "missing entry .*claims"),
        ({"about": "${oc.env:HOME}"}, "is a reference, which is not followed"),
    ],
)
def test_a_mistake_is_one_line_that_names_it(write, changes, message):
    path = write(**changes)
    with pytest.raises(InputError, match=message) as refused:
        load(path)
    assert "tiny.yaml" in str(refused.value)
    assert "\n" not in str(refused.value)


def test_a_file_that_is_not_there_is_named():
    with pytest.raises(InputError, match=r"no study file nowhere\.yaml"):
        load("nowhere.yaml")
