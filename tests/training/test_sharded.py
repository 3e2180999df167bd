"""Training on two processes over gloo, by DDP and by FSDP2: the same numbers, and checkpoints that anybody reads."""

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor

from eval.__main__ import main as evaluate
from models import generate
from storage import checkpoint_path, checkpoints, load_run
from tests.training.conftest import ROOT, clean_environment
from tests.training.sharded import VARIANTS, copy
from tests.training.test_trainer import logged
from training import load, train
from training.recovery import newest_checkpoint

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def runs(tiny_yaml: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One folder with the runs of one process, and those that `tests.training.sharded` leaves."""
    out = tmp_path_factory.mktemp("runs")
    for name, options in VARIANTS.items():
        alone(tiny_yaml, out, f"one-{name}", options)
    copy(out, "one-adamw", "fsdp-from-one")
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    command += ["-m", "tests.training.sharded", str(tiny_yaml), str(out)]
    done = subprocess.run(
        command, cwd=ROOT, env=clean_environment(), capture_output=True, text=True, timeout=300
    )
    assert "SIGKILL" in done.stderr, done.stdout + done.stderr
    return out


def alone(config: Path, out: Path, name: str, options: list[str], resume: bool = False) -> Path:
    """Train in this process."""
    return train(load(config, [f"out={out}", f"name={name}", *options]), resume=resume)


def weights(run: Path, step: int) -> dict[str, Tensor]:
    """The weights of a checkpoint, and their moving average where it has one."""
    folder = checkpoint_path(run, step)
    average = load_file(folder / "ema.safetensors") if (folder / "ema.safetensors").exists() else {}
    return load_file(folder / "model.safetensors") | {f"ema {name}": average[name] for name in average}


def assert_close(one: dict[str, Tensor], two: dict[str, Tensor]) -> None:
    """Equal but for the order in which gradients are added up, to which the first steps of Adam give some weight."""
    assert one.keys() == two.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(two[name], tensor, rtol=2e-3, atol=2e-4, msg=name)


@pytest.mark.parametrize("variant", VARIANTS)
@pytest.mark.parametrize("kind", ["ddp", "fsdp"])
def test_two_processes_train_as_one_does(runs: Path, kind: str, variant: str) -> None:
    """Losses, gradient norms, noise scale, validation and the statistics of attention."""
    one, two = logged(runs / f"one-{variant}"), logged(runs / f"{kind}-{variant}")
    assert [record["step"] for record in one] == [record["step"] for record in two]
    for record, other in zip(one, two, strict=True):
        assert other == pytest.approx(record, rel=1e-4)
    last = 4 if variant == "adamw" else 2
    assert_close(weights(runs / f"one-{variant}", last), weights(runs / f"{kind}-{variant}", last))
    if variant == "adamw":
        assert any("noise_scale" in record for record in two)


def test_the_optimizer_of_a_sharded_run_lies_in_parts(runs: Path) -> None:
    """Without a pickle, and each process's part is half of a matrix."""
    folder = checkpoint_path(runs / "fsdp-adamw", 4)
    parts = [load_file(file) for file in sorted((folder / "optimizer").iterdir())]
    name = "layers.0.mlp.up.weight"
    assert [part[f"{name}.exp_avg"].shape for part in parts] == [(32, 32), (32, 32)]
    assert weights(folder.parents[1], 4)[name].shape == (64, 32)
    assert not (folder / "optimizer.bin").exists()
    assert newest_checkpoint(runs / "fsdp-adamw") == 4


def test_a_sharded_run_resumes_to_the_bit(runs: Path) -> None:
    whole, again = runs / "fsdp-adamw", runs / "fsdp-again"
    one, two = weights(whole, 4), weights(again, 4)
    assert all(torch.equal(one[name], two[name]) for name in one)
    first, second = parts(whole), parts(again)
    assert first.keys() == second.keys()
    for name in first:
        assert all(torch.equal(*pair) for pair in zip(first[name], second[name], strict=True)), name
    assert logged(again) == logged(whole)


def test_checkpoints_written_while_a_sharded_run_goes_on_are_the_same(runs: Path) -> None:
    whole, later = runs / "fsdp-adamw", runs / "fsdp-async"
    assert checkpoints(later) == checkpoints(whole)
    for step in checkpoints(whole):
        one, two = weights(whole, step), weights(later, step)
        assert all(torch.equal(one[name], two[name]) for name in one)
        first, second = parts(whole, step), parts(later, step)
        assert first.keys() == second.keys()
        for name in first:
            assert all(torch.equal(*pair) for pair in zip(first[name], second[name], strict=True)), name
    assert newest_checkpoint(later) == 4
    assert logged(later) == logged(whole)


def parts(run: Path, step: int = 4) -> dict[str, list[Tensor]]:
    """What lies in the files of an optimizer by name, in the order of the processes."""
    found: dict[str, list[Tensor]] = {}
    for file in sorted((checkpoint_path(run, step) / "optimizer").iterdir()):
        for name, tensor in load_file(file).items():
            found.setdefault(name, []).append(tensor)
    return found


def test_checkpoints_are_read_on_other_numbers_of_processes(runs: Path, tiny_yaml: Path) -> None:
    """Two steps one way and two another: by one process and FSDP, by FSDP and DDP or one process."""
    copy(runs, "fsdp-adamw", "one-from-fsdp")
    alone(tiny_yaml, runs, "one-from-fsdp", VARIANTS["adamw"], resume=True)
    for name in ("fsdp-from-one", "ddp-from-fsdp", "one-from-fsdp"):
        assert_close(weights(runs / "one-adamw", 4), weights(runs / name, 4))
        for record, other in zip(logged(runs / "one-adamw"), logged(runs / name), strict=True):
            assert other == pytest.approx(record, rel=1e-4)


def test_a_sharded_run_is_generated_from_and_evaluated(runs: Path) -> None:
    run = load_run(runs / "fsdp-adamw")
    assert generate(run.model, torch.tensor([run.tokenizer.encode("the", bos=True)]), 4).shape[1] > 4
    evaluate(["sinks", str(run.path), "--lengths", "32", "--sequences", "2"])
    (result,) = (run.path / "eval").glob("sinks*.json")
    assert json.loads(result.read_text())


def test_what_one_process_finds_is_said_by_all(runs: Path) -> None:
    """A step that is not finite on the second process is skipped on both, and its cause is the layer there."""
    records = logged(runs / "spoilt")
    (skipped,) = (record for record in records if "skipped" in record)
    assert skipped["step"] == 3
    assert re.match(r"layer 1: gumbel_softmax's output has \d+ non-finite values", skipped["skipped"])
    assert [record["step"] for record in records if "loss" in record] == [1, 2, 4]


def test_a_killed_process_leaves_a_run_that_goes_on(runs: Path, tiny_yaml: Path) -> None:
    assert checkpoints(runs / "killed") == [2]
    alone(tiny_yaml, runs, "killed", VARIANTS["adamw"], resume=True)
    assert_close(weights(runs / "one-adamw", 4), weights(runs / "killed", 4))
