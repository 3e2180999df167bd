"""What a run may save and what it says when it stops: nothing that is not finite, and no more than was looked at."""

import json
import math
import signal
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from models import ModelError
from storage import checkpoint_path, checkpoints, log, write_checksums
from tests.training.conftest import MakeConfig
from tests.training.test_trainer import optimizer_state
from training import train
from training.batches import Batch, TrainingBatches
from training.checkpoint import TrainerState
from training.engine import Engine
from training.step import Stepper, StepResult

pytestmark = pytest.mark.slow


def after_step(monkeypatch: pytest.MonkeyPatch, step: int, harm: Callable[[Engine], None]) -> None:
    """Do harm at the end of a step."""
    whole = Stepper.take

    def harmed(self: Stepper, state: TrainerState) -> StepResult:
        result = whole(self, state)
        if state.step == step:
            harm(self.engine)
        return result

    monkeypatch.setattr(Stepper, "take", harmed)


def in_a_weight(value: float) -> Callable[[Engine], None]:
    def harm(engine: Engine) -> None:
        engine.network.layers[1].mlp.down.weight.data[0, 0] = value  # type: ignore[union-attr]

    return harm


def in_a_moment(kind: str, value: float) -> Callable[[Engine], None]:
    def harm(engine: Engine) -> None:
        next(iter(engine.optimizer.state.values()))[kind][3, 3] = value

    return harm


def is_finite(run: Path, step: int) -> bool:
    weights = load_file(checkpoint_path(run, step) / "model.safetensors").values()
    moments = [value for state in optimizer_state(run, step).values() for value in state.values()]
    return all(bool(torch.isfinite(tensor).all()) for tensor in [*weights, *moments])


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (in_a_weight(math.nan), r"parameter layers\.1\.mlp\.down\.weight holds 1 non-finite values"),
        (in_a_weight(math.inf), r"parameter layers\.1\.mlp\.down\.weight holds 1 non-finite values"),
        (in_a_moment("exp_avg", math.nan), r"parameter .* holds"),
        # An infinite second moment stops its weight and leaves the loss finite: only the save can find it.
        (
            in_a_moment("exp_avg_sq", math.inf),
            r"the optimizer's exp_avg_sq of embedding\.weight holds 1 non-",
        ),
    ],
)
def test_what_is_not_finite_is_neither_saved_nor_prunes_what_is(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, harm: Callable[[Engine], None], said: str
) -> None:
    options = [
        "train.steps=14",
        "train.checkpoint_every=2",
        "train.keep_checkpoints=2",
        "train.validate_every=99",
    ]
    whole = train(make(*options, "name=whole"))
    config = make(*options)
    with monkeypatch.context() as patch:
        after_step(patch, 5, harm)
        with pytest.raises(
            ModelError, match=said + r".*; the newest checkpoint that is whole and finite is step 4"
        ):
            train(config)
    assert checkpoints(config.path) == [2, 4]
    assert is_finite(config.path, 4)
    train(config, resume=True)
    ends = [load_file(checkpoint_path(run, 14) / "model.safetensors") for run in (whole, config.path)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])


def test_a_step_into_the_infinite_leaves_nothing_and_says_so(make: MakeConfig) -> None:
    config = make(
        "train.learning_rate=1e30", "train.warmup_steps=0", "train.steps=40", "train.checkpoint_every=5"
    )
    with pytest.raises(ModelError, match=r"there is no checkpoint to go back to$"):
        train(config)
    assert checkpoints(config.path) == []


def skip_from(monkeypatch: pytest.MonkeyPatch, first: int) -> None:
    """Make the loss of every step after `first` NaN, and leave the weights as they are."""
    accumulate = Stepper._accumulate

    def spoilt(self: Stepper, batches: list[Batch], targets: int, step: int):  # type: ignore[no-untyped-def]
        nats, total, small = accumulate(self, batches, targets, step)
        return (nats, total if step < first else math.nan, small)

    monkeypatch.setattr(Stepper, "_accumulate", spoilt)


def test_a_stop_among_skipped_steps_saves_nothing_and_is_no_success(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make("train.checkpoint_every=2", "train.steps=20")
    skip_from(monkeypatch, 4)
    after_step(monkeypatch, 7, lambda engine: signal.raise_signal(signal.SIGINT))
    with pytest.raises(
        ModelError,
        match=r"ends at step 7 with 3 skipped steps, which are not saved: .* is step 4 \(training loss",
    ):
        train(config)
    assert checkpoints(config.path) == [2, 4]


def test_a_run_that_ends_on_skipped_steps_is_no_success(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make("train.checkpoint_every=2")
    skip_from(monkeypatch, 4)
    with pytest.raises(ModelError, match=r"ends at step 6 with 2 skipped steps.* whole and finite is step 4"):
        train(config)
    assert checkpoints(config.path) == [2, 4]
    with pytest.raises(ModelError, match=r"ends at step 6 with 2 skipped steps"):
        train(config, resume=True)


def test_a_run_that_diverges_keeps_its_best_checkpoint(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    rate = make().train.learning_rate
    monkeypatch.setattr("training.step.learning_rate", lambda step, train: rate if step < 6 else 10.0)
    config = make(
        "train.steps=14", "train.checkpoint_every=2", "train.keep_checkpoints=2", "train.validate_every=99"
    )
    after_step(monkeypatch, 14, in_a_weight(math.nan))
    with pytest.raises(
        ModelError,
        match=r"whole and finite is step 12 \(training loss .*lowest loss is step 6 .*: to resume from there, delete "
        r".*-00000010 .*-00000012$",
    ):
        train(config)
    assert checkpoints(config.path) == [6, 10, 12]


def test_a_checkpoint_that_is_not_finite_is_not_resumed(make: MakeConfig) -> None:
    config = make("train.checkpoint_every=2")
    run = train(config)
    folder = checkpoint_path(run, 6)
    weights = load_file(folder / "model.safetensors")
    weights["norm.weight"][0] = math.nan
    save_file(weights, folder / "model.safetensors")
    write_checksums(folder)
    with pytest.raises(
        ModelError,
        match=r"0006 is not finite: parameter norm.weight holds 1 .* resume from step 4, .* delete .*0006$",
    ):
        train(config, resume=True)


@pytest.mark.parametrize(
    ("name", "value", "said"),
    [
        ("tokens", 300, r"1 tokens of the batch of step 4 lie outside the vocabulary of 300"),
        ("tokens", -1, r"1 tokens of the batch of step 4 lie outside the vocabulary of 300"),
        ("targets", 10**9, r"1 tokens of the batch of step 4 lie outside the vocabulary of 300"),
        ("targets", None, r"the batch of step 4 has no token to predict"),
    ],
)
def test_a_batch_that_cannot_be_learned_from_is_refused(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, name: str, value: int | None, said: str
) -> None:
    at = TrainingBatches.at

    def damaged(self: TrainingBatches, step: int) -> list[Batch]:
        batches = at(self, step)
        if step == 3:
            if value is None:
                batches[0][name].fill_(-100)
            else:
                batches[0][name][0, 5] = value
        return batches

    monkeypatch.setattr(TrainingBatches, "at", damaged)
    with pytest.raises(
        ModelError, match=said + r".*; the newest checkpoint that is whole and finite is step 2 "
    ):
        train(make("train.checkpoint_every=2"))


def test_held_out_tokens_outside_the_vocabulary_are_refused(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.validation.count_unknown", lambda batches, size: 2)
    with pytest.raises(ModelError, match=r"tokens of the held-out text lie outside the vocabulary of 300"):
        train(make())


def test_the_loss_on_record_is_the_mean_since_the_last_checkpoint(make: MakeConfig) -> None:
    run = train(make("train.checkpoint_every=3", "train.keep_checkpoints=9"))
    losses = [record["loss"] for record in log.read(run) if "loss" in record]
    states = [json.loads((checkpoint_path(run, step) / "trainer.json").read_text()) for step in (3, 6)]
    assert [state["loss"] for state in states] == pytest.approx([sum(losses[:3]) / 3, sum(losses[3:]) / 3])
