"""Result files and caching: what is known is not computed again, and whatever decides a number is."""

import json
from importlib import metadata
from pathlib import Path

import pytest
import torch

from eval.analyses import activations
from eval.analysis import evaluate
from eval.catalogue import get
from eval.subject import open_subject
from eval.terminal import table
from models import GPT
from tests.eval.conftest import RunMaker, add_checkpoint

SETTINGS = activations.Settings(sequences=3)


@pytest.fixture
def path(make_run: RunMaker, tmp_path: Path) -> Path:
    return make_run("fresh", folder=tmp_path)


@pytest.mark.slow
def test_a_result_file(path: Path) -> None:
    subject = open_subject(path)
    found = evaluate(get("activations"), subject, SETTINGS)
    result = found.file
    assert not found.reused
    assert json.loads((path / "eval" / "activations.json").read_text()) == result
    assert result["analysis"] == "activations"
    assert result["subject"] == {
        "name": "fresh",
        "label": "softmax",
        "path": str(path),
        "step": 10,
        "train_length": 32,
        "checkpoint": subject.checkpoint,
        "architecture": subject.architecture,
    }
    protocol = result["protocol"]
    assert protocol["settings"] == {"length": None, "longest": 1024, "sequences": 3, "bos": True}
    assert protocol["text"]["documents"] == len(subject.held_out())
    assert (protocol["dtype"], protocol["device"], protocol["max_length"]) == ("float32", "cpu", 128)
    assert protocol["versions"]["torch"] == torch.__version__.partition("+")[0]
    assert protocol["versions"].keys() == {"python", "numpy", "sentencepiece", "torch", "transformers"}
    assert protocol["windows"]["windows"] == 3
    assert list((path / "eval").iterdir()) == [path / "eval" / "activations.json"]


@pytest.mark.slow
def test_what_is_known_is_not_computed_again(path: Path) -> None:
    item = get("activations")
    first = evaluate(item, open_subject(path), SETTINGS)
    again = evaluate(item, open_subject(path), SETTINGS)
    assert again.reused
    assert (again.file, again.results) == (first.file, first.results)
    # How much is computed at once is no part of the protocol.
    assert evaluate(item, open_subject(path, batch_tokens=100), SETTINGS).reused
    assert not evaluate(item, open_subject(path), SETTINGS, fresh=True).reused


@pytest.mark.slow
@pytest.mark.parametrize(
    "change", ["settings", "text", "dtype", "checkpoint", "config", "library", "file", "half a file"]
)
def test_whatever_decides_the_number_makes_it_computed_again(
    path: Path, tmp_path: Path, change: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    item, settings, options = get("activations"), SETTINGS, {}
    evaluate(item, open_subject(path), settings)
    file = path / "eval" / "activations.json"
    match change:
        case "settings":
            settings = activations.Settings(sequences=4)
        case "text":
            text = tmp_path / "other.txt"
            text.write_text("the queen speaks of night. " * 60)
            options = {"text": str(text)}
        case "dtype":
            options = {"dtype": "bfloat16"}
        case "checkpoint":
            config = open_subject(path).network.plan
            torch.manual_seed(1)
            add_checkpoint(path, 20, GPT(config))
        case "config":
            config = path / "config.yaml"
            config.write_text(config.read_text().replace("attention: softmax", "attention: softpick"))
        case "library":
            now = metadata.version
            monkeypatch.setattr(metadata, "version", lambda name: "0" if name == "numpy" else now(name))
        case "file":
            file.write_text("[]")
        case "half a file":
            file.write_text(file.read_text()[:100])
    assert not evaluate(item, open_subject(path, **options), settings).reused
    assert evaluate(item, open_subject(path, **options), settings).reused


def test_a_table() -> None:
    rows = [{"run": "a", "loss": 1.23456, "n": 3}, {"run": "long", "loss": None, "more": 0.5}]
    assert table(rows).splitlines() == [
        "run    loss  n  more",
        "a     1.235  3     -",
        "long      -  -   0.5",
    ]
