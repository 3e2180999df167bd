"""Two processes over gloo, started by torchrun: what the tests of sharded training run on them.

    python -m torch.distributed.run --standalone --nproc_per_node 2 -m tests.training.sharded CONFIG OUT

accelerate shards on GPUs only and takes FSDP for DDP elsewhere, so it is told here what it would have decided there.
"""

import math
import os
import shutil
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate import Accelerator
from accelerate.state import AcceleratorState, GradientState, PartialState
from accelerate.utils import DistributedType, FullyShardedDataParallelPlugin
from torch import Tensor

from models.block import Mixer
from storage import checkpoint_path
from training import load, train, trainer
from training.step import Stepper, StepResult

VARIANTS = {
    "adamw": [
        "model.attention=softmax_sink*1,gumbel_softmax*1",
        "model.tie_embeddings=true",
        "train.micro_batch_size=1",
        "train.z_loss=1e-3",
        "train.orthograd=true",
        "train.ema=0.5",
        "train.steps=4",
        "train.checkpoint_every=2",
        "train.validate_every=2",
    ],
    "muon": [
        "model.attention=softmax",
        "model.qk_norm=true",
        "model.gate=elementwise",
        "train.optimizer=muon",
        "train.activation_checkpointing=full",
        "train.entropy_penalty=1e-4",
        "train.steps=2",
        "train.micro_batch_size=2",
    ],
}
"""Options that between them touch all that depends on how parameters and gradients lie on processes."""

made = trainer.make_accelerator


def sharded(*inputs: Any) -> Accelerator:
    """An accelerator that shards by FSDP2, as configs/accelerate/fsdp2-8-gpus.yaml asks for."""
    accelerator = made(*inputs)
    accelerator.state.fsdp_plugin = FullyShardedDataParallelPlugin(
        fsdp_version=2,
        auto_wrap_policy="transformer_based_wrap",
        reshard_after_forward=True,
        cpu_ram_efficient_loading=False,
    )
    PartialState._shared_state["distributed_type"] = DistributedType.FSDP
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator


def run(make: Callable[..., Accelerator], config: str, *overrides: str, resume: bool = False) -> Path:
    """Train in this process as one of two, prepared by DDP (`made`) or FSDP2 (`sharded`)."""
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    trainer.make_accelerator = make  # type: ignore[assignment]
    return train(load(config, [*overrides, "train.processes=2"]), resume=resume)


def spoil(step: int) -> None:
    """Let the second process find NaN in the last layer when it takes a step, and none at any other."""
    take, forward = Stepper.take, Mixer.forward
    now = {"step": -1}

    def watched(self: Stepper, state: Any) -> StepResult:
        now["step"] = state.step
        return take(self, state)

    def spoilt(self: Mixer, *inputs: Any) -> Tensor:
        found = forward(self, *inputs)
        return found * math.nan if (now["step"], self.depth, dist.get_rank()) == (step, 1, 1) else found

    Stepper.take, Mixer.forward = watched, spoilt  # type: ignore[method-assign]


def die(step: int) -> None:
    """Kill the second process when it is to take a step."""
    take = Stepper.take

    def fatal(self: Stepper, state: Any) -> StepResult:
        if state.step == step and dist.get_rank() == 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return take(self, state)

    Stepper.take = fatal  # type: ignore[method-assign]


def main(config: str, out: str) -> None:
    """Train every run that the tests look at; the last one loses a process."""
    # accelerate ends the group with the training, and a second one in the same processes never comes to be.
    PartialState.destroy_process_group = lambda self, group=None: None  # type: ignore[method-assign]

    def go(make: Callable[..., Accelerator], name: str, *overrides: str, resume: bool = False) -> Path:
        return run(make, config, f"out={out}", f"name={name}", *overrides, resume=resume)

    for name, options in VARIANTS.items():
        go(made, f"ddp-{name}", *options)
        go(sharded, f"fsdp-{name}", *options)
    go(sharded, "fsdp-async", *VARIANTS["adamw"], "train.checkpoint_async=true")
    # What each begins with was put there by the test, or is a copy of what lies there now.
    go(sharded, "fsdp-from-one", *VARIANTS["adamw"], resume=True)
    if dist.get_rank() == 0:
        copy(Path(out), "fsdp-adamw", "fsdp-again")
        copy(Path(out), "fsdp-adamw", "ddp-from-fsdp")
    dist.barrier()
    go(sharded, "fsdp-again", *VARIANTS["adamw"], resume=True)
    go(made, "ddp-from-fsdp", *VARIANTS["adamw"], resume=True)
    spoil(2)
    go(sharded, "spoilt", *VARIANTS["adamw"])
    die(3)
    go(sharded, "killed", *VARIANTS["adamw"])


def copy(out: Path, run: str, name: str) -> None:
    """Copy a run of four steps under a name, as it was after two."""
    shutil.copytree(out / run, out / name)
    shutil.rmtree(checkpoint_path(out / name, 4))


if __name__ == "__main__":
    main(*sys.argv[1:])
