"""More steps for a finished run, and runs that begin with another run's weights."""

import json
import shutil
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf
from safetensors.torch import load_file
from torch import Tensor

from models import ModelError
from storage import checkpoint_path, load_run
from tests.training.conftest import MakeConfig
from tests.training.test_trainer import logged
from training import load, train

pytestmark = pytest.mark.slow

CONSTANT = ["train.schedule=constant", "train.batch_size=2"]


def weights(run: Path, step: int) -> dict[str, Tensor]:
    return load_file(checkpoint_path(run, step) / "model.safetensors")


def record(run: Path) -> dict:
    return json.loads((run / "run.json").read_text())


@pytest.mark.parametrize("mechanism", ["softmax", "gumbel_softmax"])
def test_steps_and_then_more_are_one_long_run(make: MakeConfig, mechanism: str) -> None:
    options = [*CONSTANT, f"model.attention={mechanism}"]
    whole = train(make(*options, "name=whole"))
    parts = train(make(*options, "name=parts", "train.steps=3"))
    assert load_run(parts).step == 3
    train(make(*options, "name=parts", "train.steps=6"), resume=True)
    one, two = weights(whole, 6), weights(parts, 6)
    assert all(torch.equal(one[name], two[name]) for name in one)
    assert logged(parts) == logged(whole)
    assert OmegaConf.load(parts / "config.yaml").train.steps == 6
    assert [(entry["step"], entry["steps"]) for entry in record(parts)["longer"]] == [(3, [3, 6])]
    before = (parts / "run.json").read_text()
    train(make(*options, "name=parts", "train.steps=6"), resume=True)
    assert (parts / "run.json").read_text() == before


def test_wsd_goes_on_before_its_decay_and_not_after(make: MakeConfig) -> None:
    options = ["train.schedule=wsd", "train.decay_share=0.5", "train.warmup_steps=1", "train.batch_size=2"]
    stopped = train(make(*options, "name=parts", "train.steps=12", "train.checkpoint_every=6"))
    shutil.rmtree(checkpoint_path(stopped, 12))
    whole = train(make(*options, "name=whole", "train.steps=16"))
    train(make(*options, "name=parts", "train.steps=16", "train.checkpoint_every=6"), resume=True)
    one, two = weights(whole, 16), weights(stopped, 16)
    assert all(torch.equal(one[name], two[name]) for name in one)
    with pytest.raises(ModelError, match=r"its wsd learning rate spans train\.steps=16.*train\.init_from="):
        train(make(*options, "name=whole", "train.steps=20"), resume=True)


@pytest.mark.parametrize(
    ("options", "steps", "complaint"),
    [
        (
            ["train.schedule=cosine"],
            6,
            r"its cosine learning rate spans train\.steps=3.*train\.init_from=.*tiny",
        ),
        (["train.schedule=constant"], 2, "has done 3 steps"),
        (
            ["train.schedule=constant", "model.attention=softmax*1,annealed_softmax*1"],
            6,
            "weights of annealed_softmax follow",
        ),
    ],
)
def test_more_steps_that_would_change_the_past_are_refused(
    make: MakeConfig, options: list[str], steps: int, complaint: str
) -> None:
    run = train(make(*options, "train.steps=3", "train.batch_size=1"))
    files = {path: path.read_bytes() for path in run.rglob("*") if path.is_file()}
    with pytest.raises(ModelError, match=complaint):
        train(make(*options, f"train.steps={steps}", "train.batch_size=1"), resume=True)
    assert {path: path.read_bytes() for path in run.rglob("*") if path.is_file()} == files


def test_a_run_begins_with_the_weights_of_another(
    make: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    first = train(make(*CONSTANT, "name=first", "model.attention=softmax_sink*1,ssmax*1"))
    options = [*CONSTANT, "name=second", "train.steps=4", "train.checkpoint_every=2"]
    options += ["model.attention=weighted_softpick*1,ssmax*1", f"train.init_from={first}"]
    options += ["train.learning_rate=1e-12", "train.weight_decay=0"]
    capsys.readouterr()
    second = train(make(*options))
    said = capsys.readouterr().out
    source, found = weights(first, 6), weights(second, 2)
    dropped = sorted(source.keys() - found.keys())
    new = sorted(found.keys() - source.keys())
    assert all(name.startswith("layers.0.attention.mixer.learned.") for name in dropped + new)
    assert dropped
    assert new
    for name in source.keys() & found.keys():
        torch.testing.assert_close(found[name], source[name], rtol=1e-5, atol=1e-8)
    assert any(name.startswith("layers.1.attention.mixer.learned.") for name in source.keys() & found.keys())
    for line in (
        f"dropped, parameters of another mechanism: {', '.join(dropped)}",
        f"initial values: {', '.join(new)}",
    ):
        assert line in said
    origin = record(second)["init_from"]
    assert origin["checkpoint"] == load_run(first).checkpoint
    assert (origin["step"], origin["dropped"], origin["new"]) == (6, dropped, new)

    # Going on needs the other run no more.
    shutil.rmtree(first)
    shutil.rmtree(checkpoint_path(second, 4))
    train(make(*options), resume=True)
    assert load_run(second).step == 4


def test_a_run_stopped_before_its_first_checkpoint_begins_with_the_same_weights(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = train(make(*CONSTANT, "name=first"))
    options = [*CONSTANT, "name=second", f"train.init_from={first}"]
    whole = train(make(*options, "name=whole"))
    config = make(*options)
    train(config)
    shutil.rmtree(config.path / "checkpoints")
    train(make(*options), resume=True)
    one, two = weights(whole, 6), weights(config.path, 6)
    assert all(torch.equal(one[name], two[name]) for name in one)
    shutil.rmtree(config.path / "checkpoints")
    train(make(*CONSTANT, "name=first", "train.steps=7"), resume=True)
    with pytest.raises(ModelError, match=r"has other weights than when run .* was made"):
        train(make(*options), resume=True)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        (["model.d_model=64"], r"of another shape \(.*embedding.*; it has model\.d_model=\d+"),
        (["model.n_layer=3"], r"missing there \(layers\.2.*; it has model\.n_layer=2$"),
        (
            ["model.qk_norm=true", "model.mlp=relu_squared", "model.attention=relu"],
            r"missing there \(layers\.0\.attention\.key_norm.*; it has model\.qk_norm=false, model\.mlp=swiglu",
        ),
        (
            ["data.tokenizer.vocab_size=290"],
            "has another tokenizer; give this run the same: data.tokenizer.path=",
        ),
    ],
)
def test_weights_that_do_not_fit_are_refused(make: MakeConfig, options: list[str], complaint: str) -> None:
    first = make(*CONSTANT, "train.steps=1", "train.warmup_steps=1", "name=first")
    train(first)
    config = make(f"train.init_from={first.path}", "name=second", *options)
    with pytest.raises(ModelError, match=complaint) as refused:
        train(config)
    assert "\n" not in str(refused.value)
    assert not config.path.exists()


def test_what_is_not_said_of_the_model_is_as_in_the_source(make: MakeConfig, tmp_path: Path) -> None:
    shape = ["model.qk_norm=true", "model.rope_theta=77", "model.window=9", "model.attention=lssar*1,swat*1"]
    shape += ["model.attention_options={lssar: {power: 3}}"]
    first = train(make(*CONSTANT, *shape, "train.steps=1", "train.warmup_steps=1", "name=first"))
    plain = tmp_path / "plain.yaml"
    plain.write_text(f"out: {tmp_path}/runs\ntrain: {{init_from: {first}, warmup_steps: 0}}\n")
    found = load(plain, ["train.length=32"]).model
    assert (found.n_layer, found.d_model, found.qk_norm, found.rope_theta, found.window) == (
        2,
        32,
        True,
        77,
        "9",
    )
    assert (found.attention, found.attention_options) == ("lssar*1,swat*1", {"lssar": {"power": 3}})
    swapped = load(plain, ["train.length=32", "model.attention=softpick", "model.window=5"]).model
    assert (swapped.window, swapped.attention_options) == ("5", {})
    # A preset says it all.
    assert load(plain, ["train.length=32", "model.preset=nano"]).model.d_model is None
    with pytest.raises(ModelError, match=r"train\.init_from=/nowhere/run: no run at"):
        load(plain, ["train.init_from=/nowhere/run"])
