"""Runs that begin with the weights of an export of this project."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import ModelError
from storage import checkpoint_path, load_run
from storage.source import open_source
from tests.training.conftest import MakeConfig
from tests.training.test_going_on import CONSTANT, record
from training import Config, load, train

pytest.importorskip("transformers")

from models.export.folder import export

pytestmark = pytest.mark.slow

SHAPE = ["model.qk_norm=true", "model.tie_embeddings=true", "model.output_norm=true"]


@pytest.fixture
def folders(make: MakeConfig, tmp_path: Path) -> tuple[Path, Path]:
    """A run with learned parameters and options of its mechanisms, and its export."""
    options = ["model.attention=softmax_sink*1,lssar*1", "model.attention_options={lssar: {power: 3}}"]
    short = ["train.steps=2", "train.warmup_steps=1"]
    run = train(make(*CONSTANT, *SHAPE, *options, *short, "name=first"))
    return run, export(run, tmp_path / "exported")


Begin = Callable[..., Config]


@pytest.fixture
def begin(folders: tuple[Path, Path], make: MakeConfig, tmp_path: Path) -> Begin:
    """A function that makes the config of a run from the export, which says nothing of the model beside overrides."""
    plain = tmp_path / "plain.yaml"
    plain.write_text(
        f"out: {tmp_path}/runs\n"
        f"data: {{corpus: jsonl, path: {make().data.path}, tokenizer: {{path: {folders[1]}/tokenizer.model}}}}\n"
        "train: {steps: 1, warmup_steps: 0, batch_size: 2, length: 32, precision: fp32, tracker: none,\n"
        f"  learning_rate: 1e-12, weight_decay: 0.0, init_from: {folders[1]}}}\n"
    )
    return lambda *overrides: load(plain, overrides)


def test_it_goes_on_with_the_exports_weights_and_mechanism(
    folders: tuple[Path, Path], begin: Begin, capsys: pytest.CaptureFixture[str]
) -> None:
    run, exported = folders
    trained, source = load_run(run).model.state_dict(), open_source(exported)
    assert source.state.keys() == trained.keys()
    assert all(torch.equal(source.state[name], trained[name]) for name in trained)
    found = load_run(train(begin("name=second"))).model
    assert (found.plan.attention, found.plan.output_norm) == ("softmax_sink*1,lssar*1", True)
    assert found.plan.attention_options["lssar"]["power"] == 3
    for name, tensor in found.state_dict().items():
        torch.testing.assert_close(tensor, trained[name], rtol=1e-5, atol=1e-8)
    said = capsys.readouterr().out
    assert f"begins with {len(trained)} tensors of {exported}" in said
    assert "initial values" not in said


def test_another_mechanism_is_swapped_in(folders: tuple[Path, Path], begin: Begin) -> None:
    trained = load_run(folders[0]).model.state_dict()
    second = train(begin("name=second", "model.attention=softpick*1,lssar*1"))
    found = load_file(checkpoint_path(second, 1) / "model.safetensors")
    sink = "layers.0.attention.mixer.learned.sink"
    assert trained.keys() - found.keys() == {sink}
    assert record(second)["init_from"]["dropped"] == [sink]
    for name, tensor in found.items():
        torch.testing.assert_close(tensor, trained[name], rtol=1e-5, atol=1e-8)


def test_an_export_that_does_not_say_how_it_attends_is_refused(
    folders: tuple[Path, Path], begin: Begin
) -> None:
    file = folders[1] / "config.json"
    config = json.loads(file.read_text())
    del config["plan"]["attention"]
    for plan in (config["plan"], None, "softmax"):
        file.write_text(json.dumps(config | {"plan": plan}))
        with pytest.raises(ModelError, match=r"config\.json has no plan .* export the run anew") as refused:
            begin("name=second")
        assert "\n" not in str(refused.value)
