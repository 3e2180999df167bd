"""The shipped recipes: what they set, and whole runs with all of one."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from common.configs import chain, parents
from storage import checkpoint_path
from tests.training.conftest import ROOT, MakeConfig
from tests.training.test_trainer import logged, optimizer_state
from training import load, train
from training.config import as_dict
from training.schedules import learning_rate

RECIPES = ROOT / "configs" / "recipes"
MODERN = RECIPES / "modern.yaml"
INGREDIENTS = sorted((RECIPES / "ingredients").glob("*.yaml"))
DEMO = str(ROOT / "configs/demo/softmax.yaml")


def keys_of(path: Path) -> set[tuple[str, str]]:
    return {
        (section, key) for _, values in chain(path) for section, entries in values.items() for key in entries
    }


def test_paper_names_every_choice_of_an_ingredient_and_changes_no_default() -> None:
    choices = set().union(*map(keys_of, INGREDIENTS))
    assert choices == keys_of(RECIPES / "paper.yaml")
    assert as_dict(load(DEMO, [str(RECIPES / "paper.yaml"), "name=x"])) == as_dict(load(DEMO, ["name=x"]))


def test_modern_is_a_list_of_ingredients() -> None:
    assert {path.resolve() for path in parents(MODERN)} <= set(INGREDIENTS)
    assert keys_of(MODERN) == set().union(*(keys_of(path) for path in parents(MODERN)))


@pytest.mark.parametrize("path", INGREDIENTS, ids=lambda path: path.stem)
def test_paper_takes_an_ingredient_back(path: Path) -> None:
    with_it = as_dict(load(DEMO, [str(path), "name=x"]))
    assert with_it != as_dict(load(DEMO, ["name=x"]))
    without = as_dict(load(DEMO, [str(path), str(RECIPES / "paper.yaml"), "name=x"]))
    assert without == as_dict(load(DEMO, ["name=x"]))


@pytest.mark.slow
@pytest.mark.parametrize("extra", [[], [str(path) for path in INGREDIENTS]], ids=["modern", "all"])
def test_a_whole_run_of_a_modern_model_resumes_exactly(make: MakeConfig, extra: list[str]) -> None:
    """Muon, AdamW and everything of the model that is not in the default one, across a stop."""
    options = [str(MODERN), *extra, "train.muon_rate=0.5", "train.validate_every=99"]
    whole = train(make(*options, "name=whole"))
    parts = make(*options, "name=parts", "train.checkpoint_every=4")
    run = train(parts)
    shutil.rmtree(checkpoint_path(run, 6))
    train(parts, resume=True)
    weights = [load_file(checkpoint_path(path, 6) / "model.safetensors") for path in (whole, run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [optimizer_state(path, 6) for path in (whole, run)]
    kinds = set()
    for index, state in states[0].items():
        kinds.add(frozenset(state))
        assert all(torch.equal(value, states[1][index][name]) for name, value in state.items())
    assert kinds == {frozenset({"momentum_buffer"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}
    records = logged(run)
    assert records == logged(whole)
    losses = [record["loss"] for record in records if "loss" in record]
    assert losses[-1] < losses[0]
    rates = [record["learning_rate"] for record in records if "learning_rate" in record]
    assert rates == pytest.approx([learning_rate(step, parts.train) for step in range(6)])
    assert rates[-1] == 0.0
