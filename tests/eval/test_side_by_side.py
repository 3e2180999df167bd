"""Several runs at once, by processes of one thread each: the same files and messages as one after the other."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from data.workers import WORKERS
from eval import side_by_side
from eval.measuring import measure
from eval.subject import open_subject
from models import ModelError
from tests.eval.conftest import RunMaker

NAMES = ("activations", "bottleneck", "healing")
MECHANISMS = ("softmax", "softpick", "gaussian", "sigmoid")


@pytest.fixture
def threads() -> Any:
    """A function that sets the number of threads until the test ends."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.mark.slow
def test_the_same_results_as_one_after_the_other(
    make_run: RunMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: Any, threads: Any
) -> None:
    runs = [str(make_run(name, folder=tmp_path, attention=name)) for name in MECHANISMS]

    def printed(results: Path, *options: str) -> str:
        measure("all", NAMES, [*runs, "--results", str(results), *options], report=False)
        return str(capsys.readouterr().out)

    def results(folder: Path) -> dict[str, Any]:
        files = folder.rglob("*.json")
        return {str(path.relative_to(folder)): json.loads(path.read_text())["results"] for path in files}

    together, alone = tmp_path / "together", tmp_path / "alone"
    monkeypatch.setenv(WORKERS, "2")
    threads(1)
    assert "side by side" not in printed(alone)
    threads(2)
    first = printed(together)
    assert "4 runs side by side, on 2 cores by one thread each" in first
    assert "reused" not in first
    assert len(results(together)) == 12
    assert results(together) == results(alone)
    again = printed(together)
    assert again.count("reused") == 12
    assert "side by side" not in again
    fresh = printed(together, "--fresh")
    assert "side by side" in fresh
    assert "reused" not in fresh


def test_what_a_process_refuses_is_left_to_the_command(monkeypatch: pytest.MonkeyPatch, threads: Any) -> None:
    def reopen(run: str) -> Any:
        raise ModelError(f"{run} is damaged")

    monkeypatch.setenv(side_by_side.SILENCE, "")
    assert not side_by_side._perform(reopen, False, ("runs/softmax", "activations", None))


def test_processes_need_room(run_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    subject = open_subject(run_path)
    assert side_by_side._fits([subject], 2)
    monkeypatch.setattr(side_by_side, "BYTES", 2**50)
    assert not side_by_side._fits([subject], 2)
