"""train.py as a user runs it: one process, two, the launch that would be one, signals and mistakes."""

import signal
import subprocess
import sys
import time
from dataclasses import asdict
from pathlib import Path

import pytest
import torch

from storage import checkpoint_path, checkpoints, load_run, log
from tests.training.conftest import ROOT, MakeConfig, clean_environment, run, train_command
from tests.training.test_trainer import logged, optimizer_state
from training import train
from training.checkpoint import read_state
from training.recovery import newest_checkpoint

pytestmark = pytest.mark.slow


def test_help_says_how_to_go_on() -> None:
    shown = run(*train_command("--help"))
    assert shown.returncode == 0
    for hint in ("--resume", "key=value", "torchrun", "python -m attention", "--keys"):
        assert hint in shown.stdout


def test_nano_trains_from_the_command_line(corpus: Path, tiny_yaml: Path, tmp_path: Path) -> None:
    mine = tmp_path / "mine.yaml"
    mine.write_text(
        f"extends: {tiny_yaml}\nmodel: {{preset: nano, n_layer: null, n_head: null, d_model: null}}\n"
    )
    done = run(
        *train_command(str(mine), "train.steps=3", "--resume", f"out={tmp_path}", "model.attention=softpick")
    )
    assert done.returncode == 0, done.stderr
    assert "softpick, " in done.stdout
    assert "step 3: validation loss" in done.stdout
    assert "tokens/s" in done.stderr
    assert load_run(tmp_path / "mine").model.plan.d_model == 128


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (
            ["train.stepz=3"],
            "error: override 'train.stepz=3': unknown key 'train.stepz'; did you mean 'train.steps'",
        ),
        (["data.path=/nowhere"], "error: no such file or folder: /nowhere"),
        (["out=/proc/nowhere"], "error: cannot create the run directory /proc/nowhere/tiny: "),
    ],
)
def test_a_mistake_is_one_line_and_exit_code_2(
    tiny_yaml: Path, tmp_path: Path, arguments: list[str], complaint: str
) -> None:
    refused = run(*train_command(str(tiny_yaml), f"out={tmp_path}", *arguments))
    assert refused.returncode == 2
    assert refused.stderr.startswith(complaint)
    assert refused.stderr.count("\n") == 1


def test_two_processes_compute_what_one_does(
    make: MakeConfig, tiny_yaml: Path, uneven: Path, tmp_path: Path
) -> None:
    """Without ACCELERATE_USE_CPU: train.py finds out by itself that there is no GPU."""
    options = [f"data.path={uneven}", "data.tokenizer.vocab_size=290", "train.clip=null"]
    options += ["train.steps=1", "train.warmup_steps=1", "model.attention=gumbel_softmax"]
    torchrun = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc_per_node",
        "2",
        "train.py",
    ]
    arguments = [str(tiny_yaml), f"out={tmp_path}", "name=two", *options, "train.processes=2"]
    done = run(*torchrun, *arguments)
    assert done.returncode == 0, done.stderr
    assert "2 process(es) x 1 x 2" in done.stdout
    assert done.stdout.count("validation loss") == 2
    one, two = train(make(*options, "train.micro_batch_size=2")), tmp_path / "two"
    moments = [
        {index: state["exp_avg"] for index, state in optimizer_state(path, 1).items()} for path in (one, two)
    ]
    for index, moment in moments[0].items():
        torch.testing.assert_close(moments[1][index], moment, rtol=1e-4, atol=1e-7)
    for record, other in zip(logged(one), logged(two), strict=True):
        assert other == pytest.approx(record, rel=1e-4)
    assert load_run(two).step == 1
    noise = [read_state(checkpoint_path(path, 1)).noise_scale for path in (one, two)]
    assert noise[0].trace != 0
    assert asdict(noise[1]) == pytest.approx(asdict(noise[0]), rel=1e-3)
    refused = run(*torchrun, *arguments)
    assert refused.returncode != 0
    assert refused.stderr.count("error: run ") == 1
    assert "add --resume to continue it" in refused.stderr


def test_a_launch_that_would_silently_be_one_process_is_refused(tiny_yaml: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--cpu", "--num_processes", "2"]
    launch += ["--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no"]
    launch += ["train.py", str(tiny_yaml), f"out={tmp_path}"]
    refused = run(*launch)
    assert refused.returncode != 0
    assert "error: the launcher was asked for several processes and started one" in refused.stderr
    assert "torchrun --standalone --nproc_per_node 2 train.py" in refused.stderr
    assert not list(tmp_path.iterdir())
    direct = run(*train_command(str(tiny_yaml)), MASTER_PORT="29500", ACCELERATE_MIXED_PRECISION="no")
    assert direct.returncode == 2


def test_sigterm_saves_and_exits_0_and_the_run_goes_on(tiny_yaml: Path, tmp_path: Path) -> None:
    command = train_command(
        str(tiny_yaml), f"out={tmp_path}", "train.steps=100000", "train.validate_every=100000"
    )
    with subprocess.Popen(
        command, cwd=ROOT, env=clean_environment(), stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        path = tmp_path / "tiny"
        deadline = time.monotonic() + 90
        while len(log.read(path)) < 3 and process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.1)
        process.send_signal(signal.SIGTERM)
        said, complained = process.communicate(timeout=60)
    assert process.returncode == 0, complained
    (step,) = checkpoints(path)
    assert newest_checkpoint(path) == step == log.read(path)[-1]["step"]
    assert f"stopped after step {step}; the same command with --resume continues" in said
