"""Checkpoints that are written while the training goes on: what they hold, what a kill leaves, and what fails late."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from models import ModelError
from storage import checkpoint_path, checkpoints
from tests.training.conftest import ROOT, MakeConfig, clean_environment
from tests.training.test_trainer import logged, optimizer_state
from training import checkpoint, train
from training.step import Stepper

pytestmark = pytest.mark.slow

OPTIONS = ["train.steps=6", "train.checkpoint_every=2", "train.keep_checkpoints=3", "train.ema=0.5"]
ASYNC = [*OPTIONS, "train.checkpoint_async=true"]

KILLED = """
import os, signal, sys
from training import checkpoint, load, train

check = checkpoint.write_checksums

def fatal(folder):
    sums = check(folder)
    if "00000004" in folder.name:
        os.kill(os.getpid(), signal.SIGKILL)
    return sums

checkpoint.write_checksums = fatal
train(load(sys.argv[1], sys.argv[2:]))
"""


def assert_same(one: Path, two: Path, step: int) -> None:
    """The same weights, averages and moments to the bit, and the same log."""
    for name in ("model.safetensors", "ema.safetensors"):
        first, second = (load_file(checkpoint_path(run, step) / name) for run in (one, two))
        assert first.keys() == second.keys()
        assert all(torch.equal(first[key], second[key]) for key in first)
    first, second = (optimizer_state(run, step) for run in (one, two))
    for place, state in first.items():
        assert all(torch.equal(value, second[place][key]) for key, value in state.items())


def test_what_is_written_later_is_the_run_as_it_was(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The thread waits until the next step has changed all weights, and the next save waits for the thread."""
    done = [threading.Event() for _ in range(7)]
    plain = train(make(*OPTIONS, "name=plain"))
    seen: list[list[int]] = []
    take, save = Stepper.take, checkpoint.save_weights

    def taken(self, state):
        seen.append(checkpoints(run))
        found = take(self, state)
        done[state.step].set()
        return found

    def late(*inputs):
        assert threading.current_thread().name.startswith("checkpoint")
        step = int(inputs[1].parent.name.split("-")[1].split(".")[0])
        assert done[min(step + 1, 6)].wait(60)
        save(*inputs)

    config = make(*ASYNC, "name=later")
    run = config.path
    monkeypatch.setattr(Stepper, "take", taken)
    monkeypatch.setattr(checkpoint, "save_weights", late)
    train(config)
    assert seen[2] == [], "the third step did not wait for the checkpoint of the second"
    assert seen[4] == [2]
    assert checkpoints(run) == [2, 4, 6]
    for step in (2, 4, 6):
        assert_same(plain, run, step)
    assert logged(plain) == logged(run)


def test_a_kill_while_it_is_written_leaves_the_one_before(make: MakeConfig, tiny_yaml: Path) -> None:
    plain = train(make(*OPTIONS, "name=plain"))
    config = make(*ASYNC, "name=killed")
    done = subprocess.run(
        [sys.executable, "-c", KILLED, str(tiny_yaml), f"out={config.out}", *ASYNC, "name=killed"],
        cwd=ROOT,
        env=clean_environment(),
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert checkpoints(config.path) == [2]
    assert (checkpoint_path(config.path, 4).parent / ".step-00000004.partial").is_dir()
    train(config, resume=True)
    assert checkpoints(config.path) == [2, 4, 6]
    assert_same(plain, config.path, 6)
    assert logged(plain) == logged(config.path)


def test_one_that_cannot_be_written_ends_the_run_at_the_next(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    write = checkpoint.write_checksums

    def full(folder):
        if "00000004" in folder.name:
            raise OSError(28, os.strerror(28), str(folder))
        return write(folder)

    monkeypatch.setattr(checkpoint, "write_checksums", full)
    config = make(*ASYNC, "name=full")
    with pytest.raises(ModelError, match=r"No space left on device.*whole and finite is step 2"):
        train(config)
    assert checkpoints(config.path) == [2]
    assert not list((config.path / "checkpoints").glob(".*"))
