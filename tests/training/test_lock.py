"""One process at a time trains in a run directory; what killed ones left does not stand in the way."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from models import ModelError
from storage import checkpoints, log
from tests.training.conftest import ROOT, MakeConfig
from training import train
from training.checkpoint import TrainerState
from training.lock import RunLock
from training.step import Stepper

pytestmark = pytest.mark.slow

HOLD = """
import sys, time
from pathlib import Path
from training.lock import RunLock
with RunLock(Path(sys.argv[1])) as lock:
    lock.acquire()
    print("held", flush=True)
    time.sleep(60)
"""


@pytest.mark.parametrize("resume", [False, True])
def test_a_second_training_is_told_who_is_at_it(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, resume: bool
) -> None:
    run = make("train.checkpoint_every=2")
    refusals: list[str] = []
    whole = Stepper.take

    def step(self: Stepper, state: TrainerState):  # type: ignore[no-untyped-def]
        if state.step == 3:
            before = (run.path / log.METRICS).read_bytes()
            with pytest.raises(ModelError) as refusal:
                train(make("train.checkpoint_every=2"), resume=resume)
            refusals.append(str(refusal.value))
            assert (run.path / log.METRICS).read_bytes() == before
        return whole(self, state)

    monkeypatch.setattr(Stepper, "take", step)
    train(run)
    (refusal,) = refusals
    assert f"{run.path} is being trained by process {os.getpid()} on " in refusal
    assert [record["step"] for record in log.read(run.path) if "loss" in record] == [1, 2, 3, 4, 5, 6]


def test_the_lock_goes_with_its_process(tmp_path: Path) -> None:
    run = tmp_path / "run"
    with subprocess.Popen(
        [sys.executable, "-c", HOLD, str(run)], cwd=ROOT, stdout=subprocess.PIPE, text=True
    ) as holder:
        assert holder.stdout is not None
        assert holder.stdout.readline() == "held\n"
        with (
            RunLock(run) as lock,
            pytest.raises(ModelError, match=rf"by process {holder.pid} on .* since 20"),
        ):
            lock.acquire()
        holder.send_signal(signal.SIGKILL)
    assert (tmp_path / ".run.lock").exists()
    with RunLock(run) as lock:
        lock.acquire()
    assert list(tmp_path.iterdir()) == []


def test_what_killed_sittings_left_is_removed(make: MakeConfig) -> None:
    config = make("train.checkpoint_every=3")
    run = train(config)
    leftovers = [
        run / "checkpoints" / ".step-00000002.partial" / "half",
        run / "checkpoints" / ".step-00000005.partial",
        run / "metrics.partial",
        run.with_name(".tiny.partial") / "config.yaml",
    ]
    for leftover in leftovers:
        leftover.parent.mkdir(exist_ok=True)
        leftover.write_text("half")
    train(config, resume=True)
    assert not any(leftover.exists() for leftover in leftovers)
    assert checkpoints(run) == [3, 6]


def test_a_log_with_holes_is_said_and_continued(make: MakeConfig, capsys: pytest.CaptureFixture[str]) -> None:
    config = make("train.checkpoint_every=4")
    run = train(config)
    (run / "checkpoints" / "step-00000006").rename(run / "aside")
    file = run / log.METRICS
    lines = file.read_bytes().splitlines(keepends=True)
    lines[2] = b'{"step": 2, "l\xffoss": 1.0}\n'
    file.write_bytes(b"".join(lines))
    train(config, resume=True)
    assert f"{file} is not the log that step 4 was saved with; steps it lacks: 2" in capsys.readouterr().out
    assert [record["step"] for record in log.read(run) if "loss" in record] == [1, 3, 4, 5, 6]


def test_a_log_that_is_no_file_is_refused(make: MakeConfig) -> None:
    run = train(make("train.steps=2", "train.warmup_steps=1"))
    (run / log.METRICS).unlink()
    (run / log.METRICS).mkdir()
    with pytest.raises(ModelError, match=r"cannot read the log .*metrics\.jsonl: Is a directory"):
        train(make("train.steps=2", "train.warmup_steps=1"), resume=True)


def test_a_run_whose_tokenizer_was_damaged_is_not_continued(make: MakeConfig) -> None:
    config = make("train.checkpoint_every=4")
    run = train(config)
    (run / "checkpoints" / "step-00000006").rename(run / "aside")
    (run / "tokenizer.model").write_bytes(b"")
    with pytest.raises(ModelError, match=r"tokenizer\.model"):
        train(config, resume=True)
