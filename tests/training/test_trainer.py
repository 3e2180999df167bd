"""What training computes: exact resume, the gradient of a whole step, and steps that are not finite."""

import json
import math
import re
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from attention import names
from data import PackedDataset, prepare
from models import ModelError
from models.block import Mixer
from storage import checkpoint_path, checkpoints, load_run, log
from tests.training.conftest import MakeConfig
from training import train
from training.batches import TrainingBatches, count_targets

pytestmark = pytest.mark.slow

TIMINGS = ("seconds", "tokens_per_second", "matmul_utilisation", "mfu")


def optimizer_state(run: Path, step: int) -> dict[int, dict[str, torch.Tensor]]:
    return torch.load(checkpoint_path(run, step) / "optimizer.bin", weights_only=True)["state"]


def logged(run: Path) -> list[dict[str, Any]]:
    """All records without what depends on the clock."""
    return [{key: value for key, value in record.items() if key not in TIMINGS} for record in log.read(run)]


@pytest.mark.parametrize("mechanism", names())
def test_resuming_is_exact_to_the_bit(make: MakeConfig, mechanism: str) -> None:
    options = [f"model.attention={mechanism}", "train.batch_size=2"]
    whole = train(make(*options, "name=whole"))
    parts = make(*options, "name=parts", "train.checkpoint_every=4")
    run = train(parts)
    assert checkpoints(run) == [4, 6]
    for file in checkpoint_path(run, 6).iterdir():
        file.unlink()
    checkpoint_path(run, 6).rmdir()
    train(parts, resume=True)

    weights = [load_file(checkpoint_path(path, 6) / "model.safetensors") for path in (whole, run)]
    assert weights[0].keys() == weights[1].keys()
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    states = [optimizer_state(path, 6) for path in (whole, run)]
    for index, state in states[0].items():
        assert all(torch.equal(value, states[1][index][name]) for name, value in state.items())
    assert logged(run) == logged(whole)


def test_resuming_is_exact_with_every_option(make: MakeConfig) -> None:
    """Post-ops, losses, OrthoGrad and the noise scale's averages, in one run."""
    options = ["model.differential=true", "model.gate=elementwise", "model.prediction=stablemax"]
    options += ["train.z_loss=1e-3", "train.orthograd=true", "train.micro_batch_size=1", "train.batch_size=2"]
    options += ["train.validate_every=99"]
    whole = train(make(*options, "name=whole"))
    parts = make(*options, "name=parts", "train.checkpoint_every=4")
    run = train(parts)
    shutil.rmtree(checkpoint_path(run, 6))
    train(parts, resume=True)
    weights = [load_file(checkpoint_path(path, 6) / "model.safetensors") for path in (whole, run)]
    assert all(torch.equal(weights[0][name], weights[1][name]) for name in weights[0])
    assert logged(run) == logged(whole)
    assert any("noise_scale" in record for record in logged(run))
    assert all(record["objective"] > record["loss"] for record in logged(run) if "loss" in record)


def test_a_run_goes_on_with_its_steps_cut_otherwise(make: MakeConfig) -> None:
    """Three steps of one micro-batch, then three of two, both of which count, whatever accelerate has counted."""
    whole = train(make("name=whole"))
    parts = make("name=parts", "train.checkpoint_every=3")
    run = train(parts)
    shutil.rmtree(checkpoint_path(run, 6))
    train(make("name=parts", "train.micro_batch_size=2"), resume=True)
    weights = [load_file(checkpoint_path(path, 6) / "model.safetensors") for path in (whole, run)]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(weights[1][name], tensor, rtol=1e-3, atol=1e-5)


def test_orthograd_keeps_the_length_of_a_step_and_changes_its_direction(make: MakeConfig) -> None:
    options = ["train.steps=1", "train.warmup_steps=1", "train.clip=null"]
    plain = train(make(*options, "name=plain"))
    across = train(make(*options, "name=across", "train.orthograd=true"))
    moments = [
        {index: state["exp_avg"] for index, state in optimizer_state(run, 1).items()}
        for run in (plain, across)
    ]
    changed = [index for index, moment in moments[0].items() if not torch.equal(moment, moments[1][index])]
    assert len(changed) == 2 * 7
    for index in changed:
        torch.testing.assert_close(moments[0][index].norm(), moments[1][index].norm(), rtol=1e-4, atol=0)


def test_a_resumed_run_really_continues(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    config = make("train.checkpoint_every=4")
    run = train(config)
    newest = checkpoint_path(run, 6)
    newest.rename(newest.with_name("aside"))
    steps: list[int] = []
    at = TrainingBatches.at

    def watched_at(self: TrainingBatches, step: int) -> Any:
        steps.append(step)
        return at(self, step)

    monkeypatch.setattr(TrainingBatches, "at", watched_at)
    train(config, resume=True)
    assert steps == [4, 5]


@pytest.mark.parametrize("micro_batch_size", [1, 2])
def test_accumulation_gives_the_gradient_of_the_whole_step(
    make: MakeConfig, uneven: Path, micro_batch_size: int
) -> None:
    """AdamW's first moment after one unclipped step is (1 - beta1) times the gradient."""
    options = [f"data.path={uneven}", "data.tokenizer.vocab_size=290", "train.clip=null"]
    options += ["train.steps=1", "train.warmup_steps=1"]
    whole = make(*options, "name=whole")
    first = TrainingBatches(
        PackedDataset(prepare(whole.data).train, 32),
        seed=7,
        batch_size=4,
        micro_batch_size=1,
        rank=0,
        processes=1,
    ).at(0)
    assert len({count_targets([batch]) for batch in first}) > 1, (
        "the corpus must have uneven rows for this test"
    )
    runs = [train(whole), train(make(*options, "name=parts", f"train.micro_batch_size={micro_batch_size}"))]
    moments = [{k: state["exp_avg"] for k, state in optimizer_state(run, 1).items()} for run in runs]
    for index, moment in moments[0].items():
        torch.testing.assert_close(moments[1][index], moment, rtol=1e-4, atol=1e-7)
    losses = [next(record["loss"] for record in logged(run) if "loss" in record) for run in runs]
    assert losses[1] == pytest.approx(losses[0], rel=1e-6)


def test_the_loss_falls_below_the_unigram_entropy(make: MakeConfig) -> None:
    config = make(
        "train.steps=60",
        "train.batch_size=8",
        "train.learning_rate=1e-2",
        "train.validate_every=60",
        "train.log_every=20",
    )
    run = train(config)
    tokens = torch.as_tensor(prepare(config.data).train.tokens.astype("int64"))
    shares = tokens.bincount() / len(tokens)
    entropy = -(shares * shares.clamp(min=1e-12).log()).sum().item()
    validations = [record for record in logged(run) if "validation_loss" in record]
    assert validations[0]["validation_loss"] == pytest.approx(math.log(300), rel=0.05)
    # The next word is a choice of two or three every third word: a loss near 0 would mean that the model sees it.
    assert 0.1 < validations[-1]["validation_loss"] < 0.7 * entropy
    bits = validations[-1]["validation_loss"] / math.log(2) / prepare(config.data).bytes_per_token("valid")
    assert validations[-1]["bits_per_byte"] == pytest.approx(bits)


def test_the_telemetry_tells_mechanisms_apart(make: MakeConfig) -> None:
    records = logged(train(make("model.attention=softmax*1,softpick*1", "train.steps=2")))
    last = [record for record in records if "validation_loss" in record][-1]
    assert last["mass/layer-00"] == pytest.approx(1, abs=1e-5)
    assert 0 < last["mass/layer-01"] < 0.99
    assert last["dead_rows/layer-00"] == 0 < last["dead_rows/layer-01"] < 0.5
    assert all(last[f"max_score/layer-0{layer}"] > 0 for layer in (0, 1))
    step = next(record for record in log.read(train(make("name=b", "train.steps=2"))) if "loss" in record)
    assert step["tokens_per_second"] > 0
    assert 0 < step["matmul_utilisation"] < 1
    assert "mfu" not in step, "which a CPU has no published peak for"
    assert step["gradient_norm"] > 0


def test_a_run_can_be_opened_and_its_weights_are_in_float32(make: MakeConfig) -> None:
    run = load_run(train(make("train.precision=bf16", "train.steps=2")))
    assert run.step == 2
    assert run.train_length == 32
    state = load_file(checkpoint_path(run.path, 2) / "model.safetensors")
    assert {tensor.dtype for tensor in state.values()} == {torch.float32}


def poison(monkeypatch: pytest.MonkeyPatch, steps: set[int], damage: Any) -> None:
    """Damage what layer 1's attention returns in some steps."""
    now = {"step": -1}
    at, forward = TrainingBatches.at, Mixer.forward

    def watched_at(self: TrainingBatches, step: int) -> Any:
        now["step"] = step
        return at(self, step)

    def damaged(self: Mixer, *inputs: Any) -> torch.Tensor:
        output = forward(self, *inputs)
        return damage(output) if now["step"] in steps and self.last else output  # type: ignore[attr-defined]

    monkeypatch.setattr(TrainingBatches, "at", watched_at)
    monkeypatch.setattr(Mixer, "forward", damaged)
    monkeypatch.setattr(Mixer, "last", property(lambda self: self.mechanism.name == "swat"), raising=False)


class InfiniteGradient(torch.autograd.Function):
    """The identity, with a gradient that is not finite."""

    @staticmethod
    def forward(ctx: Any, value: torch.Tensor) -> torch.Tensor:
        return value.clone()

    @staticmethod
    def backward(ctx: Any, gradient: torch.Tensor) -> torch.Tensor:
        return gradient * math.inf


@pytest.mark.parametrize(
    ("damage", "cause"),
    [
        (
            lambda output: output * math.nan,
            r"layer 1: swat's output has 4096 non-finite values \(largest \|score\|",
        ),
        (InfiniteGradient.apply, r"the gradient of layers\.1\.attention\.(query|key|value)\.weight has"),
    ],
)
def test_a_step_that_is_not_finite_is_skipped_and_its_cause_named(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, damage: Any, cause: str
) -> None:
    poison(monkeypatch, {2, 4}, damage)
    run = train(make("model.attention=softmax*1,swat*1", "train.validate_every=100"))
    records = logged(run)
    skipped = [record for record in records if "skipped" in record]
    assert [record["step"] for record in skipped] == [3, 5]
    assert all(re.match(cause, record["skipped"]) for record in skipped)
    trained = [record["tokens"] for record in records if "loss" in record]
    assert len(trained) == 4
    assert all(math.isfinite(record["loss"]) for record in records if "loss" in record)
    state = json.loads((checkpoint_path(run, 6) / "trainer.json").read_text())
    assert (state["skipped"], state["skipped_in_a_row"], state["tokens"]) == (2, 0, trained[-1])
    weights = load_file(checkpoint_path(run, 6) / "model.safetensors")
    assert all(torch.isfinite(tensor).all() for tensor in weights.values())
    assert {int(entry["step"]) for entry in optimizer_state(run, 6).values()} == {4}


def test_ten_steps_in_a_row_stop_the_run(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    poison(monkeypatch, set(range(3, 99)), lambda output: output * math.inf)
    config = make("model.attention=softmax*1,swat*1", "train.steps=40", "train.checkpoint_every=3")
    with pytest.raises(
        ModelError, match=r"10 steps in a row were not finite, the last one step 13: layer 1: swat"
    ):
        train(config)
    last = checkpoint_path(config.path, checkpoints(config.path)[-1])
    assert all(torch.isfinite(tensor).all() for tensor in load_file(last / "model.safetensors").values())
