"""What the system refuses to write: one line with the newest good checkpoint, and the run goes on once it can."""

import errno
import os
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from models import ModelError
from storage import checkpoint_path, log
from tests.training.conftest import MakeConfig
from training import train
from training.checkpoint import TrainerState
from training.lock import RunLock

pytestmark = pytest.mark.slow


def full_disk(*inputs: Any, **options: Any) -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def broken_writer(*inputs: Any, **options: Any) -> None:
    raise RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos 5120 vs 5012\nmore")


@pytest.mark.parametrize(
    ("target", "failing", "said"),
    [
        ("training.checkpoint.save_weights", full_disk, "No space left on device; make room there"),
        ("accelerate.checkpointing.torch.save", broken_writer, "unexpected pos 5120 vs 5012"),
        ("training.checkpoint.write_checksums", full_disk, "No space left on device"),
        ("storage.checkpoint.os.rename", full_disk, "No space left on device"),
        ("storage.log.json.dumps", full_disk, r"metrics\.jsonl: No space left on device"),
    ],
)
def test_a_run_that_cannot_be_written_says_where_it_goes_on_and_does(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, target: str, failing: Callable[..., None], said: str
) -> None:
    options = ["train.checkpoint_every=2", "train.validate_every=99", "model.kernel=tiled"]
    whole = train(make(*options, "name=whole"))
    config = make(*options)
    with monkeypatch.context() as patch:
        from training.step import Stepper

        take = Stepper.take

        def fill(self: Stepper, state: TrainerState):  # type: ignore[no-untyped-def]
            if state.step == 3:
                patch.setattr(target, failing)
            return take(self, state)

        patch.setattr(Stepper, "take", fill)
        with pytest.raises(
            ModelError, match=said + r".*; the newest checkpoint that is whole and finite is step 2 "
        ):
            train(config)
    assert os.listdir(config.path / "checkpoints") == ["step-00000002"]
    train(config, resume=True)
    ends = [load_file(checkpoint_path(run, 6) / "model.safetensors") for run in (whole, config.path)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    assert [record["step"] for record in log.read(config.path) if "loss" in record] == [1, 2, 3, 4, 5, 6]


def test_all_files_of_a_run_have_the_rights_of_new_files(make: MakeConfig) -> None:
    before = os.umask(0o027)
    try:
        run = train(make("train.steps=2", "train.warmup_steps=1"))
    finally:
        os.umask(before)
    rights = {stat.S_IMODE(path.stat().st_mode) for path in run.rglob("*") if path.is_file()}
    assert rights == {0o640}


@pytest.mark.parametrize("spoil", ["checkpoints", "checkpoints/step-00000006"])
def test_a_file_in_the_place_of_a_folder_is_refused(make: MakeConfig, spoil: str) -> None:
    config = make("train.checkpoint_every=3")
    run = train(config)
    (run / spoil).rename(run / "aside")
    (run / spoil).write_text("")
    with pytest.raises(ModelError, match=r"is a file; move it away|to resume from step 3.* delete .*0006$"):
        train(config, resume=True)


def test_a_folder_that_cannot_be_made_is_refused(tmp_path: Path) -> None:
    with (
        RunLock(tmp_path / ("b" * 256) / "run") as lock,
        pytest.raises(ModelError, match=r"cannot create the run directory .*: File name too long"),
    ):
        lock.acquire()
