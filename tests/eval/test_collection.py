"""A run is read from its folder, and the report of runs is written."""

import json
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from common.errors import InputError
from eval import provenance
from eval import results as results_of
from eval.report import collection, command
from eval.report.command import Settings
from models import ModelError
from tests.eval import examples
from tests.eval.examples import PROTOCOL


@pytest.fixture
def subject(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> SimpleNamespace:
    """What `open_subject` would give, as far as a report asks."""
    monkeypatch.setattr(provenance, "protocol", lambda module, made_of: {"code": PROTOCOL["code"]})
    results = tmp_path / "nano" / "eval"
    for name, result in examples.results(0.4, 12.0).items():
        results_of.write(results / f"{name}.json", results_of.sealed(result))
    path = tmp_path / "nano"
    lines = [
        '{"step": 10, "loss": 4.0}',
        '{"step": 20, "loss": 3.0}',
        '{"step": 30, "loss": 2.0}',
        '{"step": 4',
    ]
    (path / "metrics.jsonl").write_text("\n".join(lines))
    (path / "config.yaml").write_text("name: nano\nseed: 7\n")
    (path / "run.json").write_text('{"data": "dada"}')
    return SimpleNamespace(
        name="nano", label="softmax", path=path, step=20, checkpoint="f" * 64, architecture="a" * 16, train_length=32,
        results=results, made_of=set(), network=torch.nn.Linear(3, 2), protocol=lambda: {"text": PROTOCOL["text"]},
    )  # fmt: skip


def test_a_run_is_read_from_its_folder(subject):
    found = collection.measured(subject, "nano")
    assert set(found.results) == {"sinks", "activations", "quantize", "lengths", "harness", "heatmaps"}
    assert found.logged("loss") == [(10, 4.0), (20, 3.0)]
    assert found.config["seed"] == 7
    assert found.record["data"] == "dada"
    assert found.parameters == 8


def test_a_result_of_another_layout_is_missing_and_says_why(subject):
    """An entry that no longer has its name is told, and no dash in a table."""
    file = subject.results / "heatmaps.json"
    known = json.loads(file.read_text())
    known["results"]["pooling"] = known["results"].pop("pool")
    results_of.write(file, results_of.sealed(known))
    found = collection.measured(subject, "nano")
    assert "heatmaps" not in found.results
    reason = "written in a layout that is no longer read (unknown entry results.pooling)"
    assert found.missing["heatmaps"] == reason


def test_results_of_another_checkpoint_are_not_shown(subject):
    subject.checkpoint = "e" * 64
    found = collection.measured(subject, "nano")
    assert not found.results
    assert found.missing["sinks"] == "measured on another checkpoint (step 20)"


@pytest.mark.slow
def test_the_report_and_its_data_are_written(subject, tmp_path):
    subject_too = SimpleNamespace(**{**vars(subject), "path": tmp_path / "elsewhere" / "nano"})
    cells = command.write(
        [subject, subject_too], Settings(out=str(tmp_path / "new" / "report.html"), title="Two")
    )
    assert cells["runs"] == 2
    data = json.loads((tmp_path / "new" / "report.json").read_text())
    assert [entry["name"] for entry in data["runs"]] == sorted([str(subject.path), str(subject_too.path)])
    assert next(entry["missing"] for entry in data["runs"] if entry["name"] == str(subject_too.path)) == {
        "training": "not logged",
        "bottleneck": "not measured",
        "passkey": "not measured",
        "synthetic": "not measured",
    }
    assert "<title>Two</title>" in (tmp_path / "new" / "report.html").read_text()
    command.write([subject], Settings(export=str(tmp_path / "paper")))
    assert (tmp_path / "report.html").is_file()
    written = {file.name for file in (tmp_path / "paper").iterdir()}
    figure = "sink-rate-by-layer"
    assert {f"{figure}.svg", f"{figure}.pdf", f"{figure}.png", f"{figure}.csv", "numbers.csv"} <= written
    header, first, *_ = (tmp_path / "paper" / f"{figure}.csv").read_text().splitlines()
    assert header == "variant,curve,x,y,low,high"
    assert first.startswith("softmax,0,0,")


@pytest.mark.slow
def test_mistakes_are_named(subject, tmp_path, monkeypatch):
    with pytest.raises(ModelError, match=r"must end in \.html, got page\.txt"):
        command.before(Settings(out="page.txt"))
    (tmp_path / "file").write_text("")
    with pytest.raises(ModelError, match="cannot write"):
        command.write([subject], Settings(out=str(tmp_path / "file" / "report.html")))
    (subject.path / "config.yaml").write_text("a: [1\n")
    with pytest.raises(InputError, match=r"config\.yaml is not readable YAML"):
        collection.measured(subject, "nano")
    monkeypatch.setattr(command, "find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"needs the packages matplotlib, jinja2, scipy: pip install"):
        command.before(Settings())
