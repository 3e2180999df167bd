"""Damage and recovery of a swap of attention."""

import json
import random
from pathlib import Path

import pytest
import torch
from torch.nn.functional import cross_entropy

from data import DataConfig, TokenizerConfig
from eval.analyses import healing
from eval.analyses.healing import Settings
from eval.report.collection import collect
from eval.subject import open_subject
from eval.windows import cut
from models import ModelError
from storage import load_run
from tests.eval.conftest import RunMaker, add_checkpoint, untrained_run
from tests.eval.measuring import measure


def begun(source: Path, place: Path, attention: str, **shape: object) -> Path:
    """A run that began with the weights of another, and has others now."""
    config = load_run(source).config
    data = config["data"] | {"tokenizer": TokenizerConfig(**config["data"]["tokenizer"])}
    path = untrained_run(
        place, DataConfig(**data), 32, step=1, seed=1, **{**config["model"], "attention": attention, **shape}
    )
    record = json.loads((path / "run.json").read_text())
    origin = load_run(source)
    record["init_from"] = {"run": str(source), "step": origin.step, "checkpoint": origin.checkpoint}
    (path / "run.json").write_text(json.dumps(record))
    return path


def test_the_three_losses_are_those_of_the_three_models(make_run: RunMaker, tmp_path: Path) -> None:
    source = make_run("source", init_std=0.3)
    run = begun(source, tmp_path / "run", "sigmoid")
    result = measure(healing, open_subject(run), Settings(sequences=6))["results"]["began"]
    alone = measure(healing, open_subject(begun(source, tmp_path / "same", "softmax")), Settings(sequences=6))
    assert alone["results"]["began"]["damage"] == pytest.approx(0, abs=1e-9)
    assert alone["results"]["began"]["recovered"] is None
    assert result["source"] == alone["results"]["began"]["source"]
    assert (result["attention"], result["steps"]) == ("softmax", 1)
    # Weights of the source under the run's attention, without the analysis.
    swapped = load_run(run).model
    swapped.load_state_dict(load_run(source).model.state_dict())
    add_checkpoint(run, 2, swapped)
    moved = measure(healing, open_subject(run), Settings(sequences=6))["results"]["began"]
    assert moved["run"]["loss"] == pytest.approx(result["swapped"]["loss"])
    assert moved["left"] == pytest.approx(moved["damage"]) == pytest.approx(result["damage"])
    damage, left = result["damage"], result["left"]
    assert damage > 0.1
    assert abs(left - damage) > 0.01
    assert result["recovered"] == pytest.approx((damage - left) / damage)
    mean = torch.tensor(list(result["run"]["by_document"].values())).mean()
    assert float(mean) == pytest.approx(result["run"]["loss"], rel=1e-5)


def test_a_source_that_is_gone_or_has_changed_is_refused(make_run: RunMaker, tmp_path: Path) -> None:
    source = make_run("source", folder=tmp_path / "one")
    run = begun(source, tmp_path / "run", "ssmax")
    source.rename(tmp_path / "moved")
    with pytest.raises(ModelError, match=r"no run at .*; --source says where it lies"):
        healing.run(open_subject(run), Settings(sequences=2))
    found = healing.run(open_subject(run), Settings(sequences=2, source=str(tmp_path / "moved"))).results
    assert healing.row(found)["began with"] == "softmax"
    assert [number.title for number in healing.numbers(found)] == ["damage", "left", "recovered"]
    other = load_run(tmp_path / "moved").model
    other.embedding.weight.data.mul_(1.01)
    add_checkpoint(tmp_path / "moved", 20, other)
    with pytest.raises(ModelError, match="has other weights than when it began"):
        healing.run(open_subject(run), Settings(source=str(tmp_path / "moved")))


def test_a_token_that_begins_a_document_is_not_scored(tmp_path: Path) -> None:
    draw = random.Random(0)
    names = ("".join(draw.choices("aeioklmnrst", k=draw.randint(3, 8))) for _ in range(90))
    texts = tmp_path / "names.jsonl"
    texts.write_text("\n".join(json.dumps({"text": name}) for name in dict.fromkeys(names)))
    data = DataConfig(corpus="jsonl", path=str(texts), tokenizer=TokenizerConfig(kind="char", vocab_size=300))
    shape = {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 16, "max_length": 64, "init_std": 0.3}
    source = untrained_run(tmp_path / "source", data, 32, **shape)
    subject = open_subject(begun(source, tmp_path / "run", "softmax"))
    found = measure(healing, subject, Settings(sequences=2))["results"]["began"]["source"]["loss"]
    windows = cut(subject, 32, 2).tokens
    assert (windows[:, 1:] == subject.bos).any()
    with torch.no_grad():
        logits = load_run(source).model(windows[:, :-1])
    wanted = cross_entropy(logits.flatten(0, 1), windows[:, 1:].flatten(), ignore_index=subject.bos)
    assert found == pytest.approx(float(wanted), rel=1e-5)


def test_a_run_of_random_weights_has_none(run_path: Path) -> None:
    found = healing.run(open_subject(run_path), Settings()).results
    assert found.began is None
    assert healing.row(found) == {"began with": "random weights"}
    assert healing.numbers(found) == []
    assert not healing.ANALYSIS.applies(open_subject(run_path))
    assert "healing" not in collect([open_subject(run_path)])[0].missing
