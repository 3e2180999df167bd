"""The launch files of configs/accelerate: accelerate knows every key, and starts what they say."""

import os
import subprocess
import sys
from argparse import Namespace
from pathlib import Path

import pytest
import yaml
from accelerate import ParallelismConfig
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from accelerate.utils import FullyShardedDataParallelPlugin
from accelerate.utils.launch import (
    prepare_deepspeed_cmd_env,
    prepare_multi_gpu_env,
    prepare_simple_launcher_cmd_env,
)

from storage import checkpoints
from tests.training.conftest import ROOT, clean_environment, run
from training.launch import check_launcher

FILES = sorted((ROOT / "configs" / "accelerate").glob("*.yaml"))
PREPARE = {
    "NO": lambda arguments: prepare_simple_launcher_cmd_env(arguments)[1],
    "MULTI_GPU": prepare_multi_gpu_env,
    "FSDP": prepare_multi_gpu_env,
    "DEEPSPEED": lambda arguments: prepare_deepspeed_cmd_env(arguments)[1],
}


def arguments_of(file: Path) -> Namespace:
    """What `accelerate launch --config_file FILE train.py` makes of its command line."""
    parser = launch_command_parser()
    given = parser.parse_args(["--config_file", str(file), "--main_process_ip", "10.0.0.1", "train.py"])
    arguments, defaults, _ = _validate_launch_command(given)
    arguments.deepspeed_fields_from_accelerate_config = ",".join(defaults.deepspeed_config)
    return arguments


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_accelerate_knows_every_key(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of a section become options of the launcher, which would take any name without a word."""
    monkeypatch.setattr(os, "environ", clean_environment())
    arguments = arguments_of(file)
    known = vars(launch_command_parser().parse_args(["train.py"]))
    values = yaml.safe_load(file.read_text())
    for section in ("fsdp_config", "deepspeed_config", "parallelism_config"):
        assert set(values.get(section, {})) <= known.keys()
    environment = PREPARE[values["distributed_type"]](arguments)
    assert arguments.num_processes == values["num_processes"]
    monkeypatch.setattr(os, "environ", environment)
    if values["distributed_type"] == "NO":
        check_launcher()
    if values["distributed_type"] == "FSDP":
        fsdp = FullyShardedDataParallelPlugin()
        assert (fsdp.fsdp_version, fsdp.reshard_after_forward) == (2, True)
        assert not fsdp.cpu_ram_efficient_loading
        assert not fsdp.activation_checkpointing
        assert "transformer" in fsdp.auto_wrap_policy.__name__
        assert (environment.get("ACCELERATE_USE_PARALLELISM_CONFIG") == "true") == (
            "parallelism_config" in values
        )
    if "parallelism_config" in values:
        parallel = ParallelismConfig()
        assert (parallel.dp_replicate_size, parallel.dp_shard_size) == (arguments.num_machines, 8)
        assert parallel.total_size == parallel.data_parallel_size == arguments.num_processes
        assert parallel.fsdp_dim_names == ["dp_replicate", "dp_shard_cp"]
    if values["distributed_type"] == "DEEPSPEED":
        assert environment["ACCELERATE_DEEPSPEED_ZERO_STAGE"] == file.stem[-1]


def test_every_launch_file_stands_in_the_documentation() -> None:
    page = (ROOT / "docs" / "training.md").read_text()
    for file in (ROOT / "configs" / "accelerate").iterdir():
        assert f"configs/accelerate/{file.name}" in page


def test_the_script_for_slurm_is_a_script() -> None:
    script = ROOT / "configs" / "accelerate" / "slurm.sh"
    subprocess.run(["bash", "-n", script], check=True)
    named = [word for word in script.read_text().split() if word.startswith("configs/")]
    assert named
    assert all((ROOT / name).is_file() for name in named)


@pytest.mark.slow
def test_two_processes_are_started_on_a_cpu(tiny_yaml: Path, tmp_path: Path) -> None:
    launch = [sys.executable, "-m", "accelerate.commands.launch"]
    launch += ["--config_file", str(ROOT / "configs" / "accelerate" / "cpu-gloo.yaml")]
    launch += ["train.py", str(tiny_yaml), f"out={tmp_path}", "train.steps=2", "train.processes=2"]
    done = run(*launch)
    assert done.returncode == 0, done.stderr
    assert "2 process(es) x 1 x 2" in done.stdout
    assert checkpoints(tmp_path / "tiny") == [2]
