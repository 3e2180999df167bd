"""Starting a process of a run: devices, threads, and the launches that would silently be something else."""

import os
from collections.abc import Callable
from typing import Any, TypeVar

import psutil
import torch
import torch.distributed
from accelerate import Accelerator
from accelerate.utils import (
    DistributedType,
    FullyShardedDataParallelPlugin,
    ProjectConfiguration,
    broadcast_object_list,
    gather_object,
    get_int_from_env,
    parse_flag_from_env,
)
from torch.distributed import ProcessGroup
from torch.distributed.fsdp import MixedPrecisionPolicy

from models import GPT, ModelConfig, ModelError
from storage.allocation import keep_freed_memory
from training.config import Config

T = TypeVar("T")

BYTES_PER_PARAMETER = 16
"""Weight, gradient and two moments in float32."""

_ONE_PROCESS = (
    "the launcher was asked for several processes and started one (accelerate launch --cpu does); use "
    "`ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 train.py ...` or "
    "`ACCELERATE_USE_CPU=true accelerate launch --multi_gpu --num_processes 2 --num_machines 1 --mixed_precision no "
    "--dynamo_backend no train.py ...`"
)


def choose_device() -> torch.device:
    """The kind of device to train on; to be called before anything asks accelerate for its state.

    Without a GPU the processes must be told so, or a distributed launch fails looking for one; and torchrun gives each
    of them a single thread, whatever the number of cores.
    """
    found = torch.accelerator.current_accelerator(check_available=True)
    if found is not None and not parse_flag_from_env("ACCELERATE_USE_CPU"):
        return found
    os.environ["ACCELERATE_USE_CPU"] = "true"
    keep_freed_memory()
    local_processes = int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if local_processes > 1 and os.environ.get("OMP_NUM_THREADS", "1") == "1":
        torch.set_num_threads(max(1, _cores() // local_processes))
    return torch.device("cpu")


def rank() -> int:
    """The number of this process, which its launcher knows before there is a process group."""
    return int(get_int_from_env(["RANK", "PMI_RANK", "OMPI_COMM_WORLD_RANK", "MV2_COMM_WORLD_RANK"], 0))


def make_accelerator(config: Config, precision: str) -> Accelerator:
    """What accelerate is told of a run that computes in "fp32", "bf16" or "fp16"."""
    tracker = config.train.tracker
    return Accelerator(
        mixed_precision="no" if precision == "fp32" else precision,
        log_with=None if tracker == "none" else tracker,
        project_config=ProjectConfiguration(project_dir=str(config.path), logging_dir=str(config.path)),
    )


def check_launcher() -> None:
    """Refuse a launcher that was asked for several processes and started one.

    Raises:
        ModelError: says which launch works.
    """
    # Only accelerate's launcher for a single process sets the port and the precision but no rank.
    alone = {"MASTER_PORT", "ACCELERATE_MIXED_PRECISION"} <= os.environ.keys() and "RANK" not in os.environ
    if alone:
        raise ModelError(_ONE_PROCESS)


def check_launch(accelerator: Accelerator, processes: int | None) -> None:
    """Refuse a process group that is not the one asked for, and ways to shard that training does not know.

    Raises:
        ModelError: another number of processes than `processes`; FSDP or DeepSpeed requested and not in use; FSDP of
            the first version, or with checkpointing of its own.
    """
    if processes is not None and accelerator.num_processes != processes:
        raise ModelError(f"train.processes={processes}, but {accelerator.num_processes} are running")
    for variable, kind in (
        ("ACCELERATE_USE_FSDP", DistributedType.FSDP),
        ("ACCELERATE_USE_DEEPSPEED", DistributedType.DEEPSPEED),
    ):
        if os.environ.get(variable, "false").lower() == "true" and accelerator.distributed_type != kind:
            raise ModelError(
                f"{kind.value} was asked for and accelerate runs {accelerator.distributed_type.value} instead; "
                f"{kind.value} needs more than one GPU"
            )
    if (fsdp := getattr(accelerator.state, "fsdp_plugin", None)) is not None:
        _settle(fsdp)


def _settle(fsdp: FullyShardedDataParallelPlugin) -> None:
    """Have FSDP compute as everybody does: autocast over float32 weights, so that numbers do not depend on sharding."""
    if fsdp.fsdp_version != 2:
        raise ModelError(
            "FSDP of version 1 is not served; set fsdp_version: 2 in the fsdp_config of accelerate"
        )
    if fsdp.activation_checkpointing:
        raise ModelError(
            "fsdp_activation_checkpointing would rename the weights; use train.activation_checkpointing"
        )
    fsdp.mixed_precision_policy = MixedPrecisionPolicy()


def check_memory(config: ModelConfig, device: torch.device) -> None:
    """Refuse a model that this machine cannot train, before its memory is asked for.

    Raises:
        ModelError: weights, gradients and AdamW's moments alone need more than there is.
    """
    if device.type != "cpu":
        return
    with torch.device("meta"):
        parameters = sum(parameter.numel() for parameter in GPT(config).parameters())
    needed = parameters * BYTES_PER_PARAMETER * int(os.environ.get("LOCAL_WORLD_SIZE", 1))
    if needed > (there := psutil.virtual_memory().total):
        raise ModelError(
            f"the model has {parameters:,} parameters; weights, gradients and moments take {needed / 1e9:,.0f} GB, and "
            f"this machine has {there / 1e9:,.0f} GB: take fewer layers, a smaller width or vocabulary"
        )


def keep_process_group() -> None:
    """Keep the process group, once there is one, until the process ends.

    Where DDP's reducer is the last to let go of it, Python's lock is held while gloo's threads are joined, one of which
    may need that lock to let go of a tensor: the process would wait for ever, after its last step.
    """
    if torch.distributed.is_available() and torch.distributed.is_initialized():
        _kept.append(torch.distributed.group.WORLD)


_kept: list[Any] = []


def background_group() -> ProcessGroup | None:
    """A process group over the CPU for what goes on beside the training; None for a process that is alone."""
    if not (torch.distributed.is_available() and torch.distributed.is_initialized()):
        return None
    group = torch.distributed.new_group(backend="gloo")
    _kept.append(group)
    return group


def from_main(accelerator: Accelerator, decide: Callable[[], T]) -> T:
    """What `decide` returns or raises on the main process, in every process: one look at the disk, one verdict."""
    outcome: list[Any] = [None]
    if accelerator.is_main_process:
        try:
            outcome = [decide()]
        except (ValueError, OSError) as error:
            outcome = [error]
    broadcast_object_list(outcome)
    if isinstance(outcome[0], ValueError | OSError):
        raise outcome[0]
    return outcome[0]


def agreed(accelerator: Accelerator, act: Callable[[], None]) -> None:
    """Do something in every process; where it fails in one, it has failed in all, and none is left waiting."""
    failure: ValueError | OSError | None = None
    try:
        act()
    except (ValueError, OSError) as error:
        failure = error
    failures = [found for found in gather_object([failure]) if found is not None]
    if failures:
        raise failure or failures[0]


def _cores() -> int:
    """Physical cores this process may use."""
    available = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(psutil.cpu_count(logical=False) or available, available)
