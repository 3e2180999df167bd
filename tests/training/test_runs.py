"""Run directories: never overwritten, resumed only where that is exact, and always left in a good state."""

import json
from pathlib import Path

import pytest

from models import ModelError
from storage import checkpoint_path, checkpoints, log
from tests.training.conftest import MakeConfig
from training import train

pytestmark = pytest.mark.slow


def test_a_run_is_not_overwritten(make: MakeConfig) -> None:
    run = train(make("train.steps=2"))
    before = (run / "metrics.jsonl").read_bytes()
    with pytest.raises(
        ModelError, match=r"run .*tiny exists; add --resume to continue it, or choose another name="
    ):
        train(make("train.steps=2"))
    assert (run / "metrics.jsonl").read_bytes() == before


@pytest.mark.parametrize("resume", [False, True])
def test_a_folder_that_is_no_run_is_left_alone(make: MakeConfig, resume: bool) -> None:
    path = make().path
    path.mkdir(parents=True)
    (path / "thesis.tex").write_text("years of work")
    with pytest.raises(ModelError, match="exists and is not a run of this project"):
        train(make(), resume=resume)
    assert [file.name for file in path.iterdir()] == ["thesis.tex"]


def test_resume_starts_what_is_not_there_and_an_empty_folder_is_free(make: MakeConfig) -> None:
    assert checkpoints(train(make("train.steps=2"), resume=True)) == [2]
    empty = make("name=empty", "train.steps=2")
    empty.path.mkdir(parents=True)
    assert checkpoints(train(empty)) == [2]


def test_a_finished_run_says_so_and_stays_as_it_is(
    make: MakeConfig, capsys: pytest.CaptureFixture[str]
) -> None:
    run = train(make("train.steps=2"))
    before = {file: file.read_bytes() for file in run.rglob("*") if file.is_file()}
    train(make("train.steps=2"), resume=True)
    assert "already complete: 2 of 2 steps" in capsys.readouterr().out
    assert {file: file.read_bytes() for file in run.rglob("*") if file.is_file()} == before


def test_another_config_or_other_data_are_refused_by_name(make: MakeConfig, uneven: Path) -> None:
    train(make("train.steps=2"))
    with pytest.raises(
        ModelError, match=r"config \(train\.learning_rate: 0\.003 -> 0\.5; train\.steps: 2 -> 3\)"
    ):
        train(make("train.steps=3", "train.learning_rate=0.5"), resume=True)
    with pytest.raises(ModelError, match=r"data\.path: "):
        train(make("train.steps=2", f"data.path={uneven}", "data.tokenizer.vocab_size=290"), resume=True)
    train(make("train.steps=2", "train.log_every=5", "train.micro_batch_size=2"), resume=True)


def test_a_corpus_that_changed_is_refused(make: MakeConfig, corpus: Path, tmp_path: Path) -> None:
    copy = tmp_path / "copy.jsonl"
    copy.write_text(corpus.read_text())
    config = make("train.steps=2", f"data.path={copy}")
    train(config)
    with copy.open("a") as file:
        file.write(json.dumps({"text": "the king sees a lark above the storm"}) + "\n")
    with pytest.raises(ModelError, match="was started on other data"):
        train(make("train.steps=2", f"data.path={copy}"), resume=True)


def test_a_damaged_checkpoint_is_refused_and_the_way_back_named(make: MakeConfig) -> None:
    config = make("train.checkpoint_every=2", "train.keep_checkpoints=3")
    run = train(config)
    assert checkpoints(run) == [2, 4, 6]
    for step in (4, 6):
        weights = checkpoint_path(run, step) / "model.safetensors"
        content = bytearray(weights.read_bytes())
        content[-1] ^= 1
        weights.write_bytes(content)
    with pytest.raises(
        ModelError, match=r"damaged: model\.saf.* resume from step 2, .* delete .*0004 .*0006$"
    ):
        train(config, resume=True)
    for file in checkpoint_path(run, 2).iterdir():
        file.write_bytes(b"")
    with pytest.raises(ModelError, match=r"to start again, delete .*0002 .*0004 .*0006$"):
        train(config, resume=True)


def test_a_run_killed_before_its_first_checkpoint_starts_again(make: MakeConfig) -> None:
    config = make()
    run = train(config)
    for file in checkpoint_path(run, 6).iterdir():
        file.unlink()
    checkpoint_path(run, 6).rmdir()
    leftover = run / "checkpoints" / ".step-00000006.partial"
    leftover.mkdir()
    (leftover / "half").write_text("written")
    train(config, resume=True)
    assert checkpoints(run) == [6]
    assert not leftover.exists()
    assert [record["step"] for record in log.read(run) if "loss" in record] == [1, 2, 3, 4, 5, 6]


def test_only_the_newest_checkpoints_are_kept(make: MakeConfig) -> None:
    assert checkpoints(train(make("train.checkpoint_every=1", "train.keep_checkpoints=2"))) == [5, 6]


def test_metrics_survive_a_line_cut_short(tmp_path: Path) -> None:
    for step in (1, 2, 3):
        log.append(tmp_path, {"step": step, "loss": float("nan") if step == 2 else 1.0})
    with (tmp_path / log.METRICS).open("a") as file:
        file.write('{"step": 4, "lo')
    assert [record["step"] for record in log.read(tmp_path)] == [1, 2, 3]
    log.truncate(tmp_path, 2)
    assert log.read(tmp_path) == [{"step": 1, "loss": 1.0}, {"step": 2, "loss": None}]


def test_tensorboard_is_written_into_the_run(make: MakeConfig) -> None:
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    run = train(make("train.steps=2", "train.tracker=tensorboard"))
    events = EventAccumulator(str(run / "tensorboard")).Reload()
    assert {"loss", "validation_loss", "mass/layer-00"} <= set(events.Tags()["scalars"])
    assert [event.step for event in events.Scalars("loss")] == [1, 2]


def test_a_tracker_that_is_not_installed_is_refused(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("training.tracking.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"train\.tracker=wandb needs the package: pip install wandb"):
        train(make("train.tracker=wandb"))


def test_a_vocabulary_smaller_than_the_tokenizers_is_refused(make: MakeConfig) -> None:
    with pytest.raises(ModelError, match=r"model\.vocab_size=100 is below the tokenizer's 300"):
        train(make("model.vocab_size=100"))
    assert not make().path.exists()
