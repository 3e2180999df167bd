"""Checkpoints of a run in training: written whole or not at all, and found again."""

import json
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

from accelerate import Accelerator
from accelerate.utils import DistributedType
from safetensors.torch import load_file, save_file
from torch import nn

from models import (
    GPT,
    ModelError,
    checkpoint_path,
    checkpoints,
    partial_path,
    prune,
    publish,
    verify,
    write_checksums,
)
from models.run import WEIGHTS
from training.launch import from_main
from training.noise_scale import NoiseScale

STATE = "trainer.json"
SHARDED = (DistributedType.FSDP, DistributedType.DEEPSPEED)


@dataclass
class TrainerState:
    """What a run must remember beside weights, optimiser and random generators.

    Attributes:
        step: optimiser steps done, skipped ones included; the data order and the schedule follow from it.
        tokens: target tokens trained on.
        seconds: spent in training, over all sittings.
        skipped: steps skipped for non-finite values, in all.
        skipped_in_a_row: of these, the ones since the last good step.
        config, data: fingerprints.
        processes: how many wrote the checkpoint.
        noise_scale: the moving averages of the gradient noise scale.
        versions: of the libraries that decide what a step computes.
    """

    config: str
    data: str
    processes: int
    step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    skipped: int = 0
    skipped_in_a_row: int = 0
    noise_scale: NoiseScale = field(default_factory=NoiseScale)
    versions: dict[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("torch", "accelerate")}
    )


class Checkpointer:
    """Saves and restores one run; every process calls every method."""

    def __init__(
        self, run: Path, accelerator: Accelerator, model: nn.Module, network: GPT, keep: int
    ) -> None:
        """`model` is what accelerate prepared, `network` the plain GPT inside it."""
        self._run = run
        self._accelerator = accelerator
        self._model = model
        self._network = network
        self._keep = keep
        # A wrapped model would be saved, and expected back, under its wrapper's tensor names.
        accelerator.register_save_state_pre_hook(lambda models, weights, folder: weights.clear())
        accelerator.register_load_state_pre_hook(lambda models, folder: models.clear())

    def save(self, state: TrainerState) -> None:
        """Write the checkpoint of `state.step`, then drop the oldest beyond the number to keep."""
        accelerator = self._accelerator
        folder = from_main(accelerator, lambda: partial_path(self._run, state.step))
        accelerator.save_state(str(folder))
        weights = accelerator.get_state_dict(self._model) if self._sharded else self._network.state_dict()
        if accelerator.is_main_process:
            save_file({name: tensor.contiguous() for name, tensor in weights.items()}, folder / WEIGHTS)
            (folder / STATE).write_text(json.dumps(asdict(state), indent=2) + "\n")
        accelerator.wait_for_everyone()
        if accelerator.is_main_process:
            write_checksums(folder)
            publish(folder, checkpoint_path(self._run, state.step))
            prune(self._run, self._keep)
        accelerator.wait_for_everyone()

    def load(self, step: int) -> TrainerState:
        """Restore the checkpoint of a step into the prepared model and optimiser."""
        folder = checkpoint_path(self._run, step)
        self._accelerator.wait_for_everyone()
        if not self._sharded:
            self._network.load_state_dict(load_file(folder / WEIGHTS))
        self._accelerator.load_state(str(folder))
        self._accelerator.wait_for_everyone()
        return read_state(folder)

    @property
    def _sharded(self) -> bool:
        return self._accelerator.distributed_type in SHARDED


def read_state(folder: Path) -> TrainerState:
    """The trainer.json of a checkpoint.

    Raises:
        ModelError: missing or unreadable.
    """
    try:
        values: dict[str, Any] = json.loads((folder / STATE).read_text())
        return TrainerState(**{**values, "noise_scale": NoiseScale(**values.get("noise_scale", {}))})
    except (OSError, ValueError, TypeError) as error:
        raise ModelError(f"checkpoint {folder} has no readable {STATE}: {error}") from error


def newest_checkpoint(run: Path) -> int | None:
    """The step of the newest checkpoint, verified; None where there is none.

    Raises:
        ModelError: the newest is damaged; names the newest good one and how to go back to it.
    """
    steps = checkpoints(run)
    if not steps:
        return None
    try:
        verify(checkpoint_path(run, steps[-1]))
    except ModelError as error:
        good = next((step for step in reversed(steps[:-1]) if _is_good(run, step)), None)
        damaged = " ".join(str(checkpoint_path(run, step)) for step in steps if good is None or step > good)
        way_on = "start again" if good is None else f"resume from step {good}, the newest good checkpoint"
        raise ModelError(f"{error}; to {way_on}, delete {damaged}") from error
    return steps[-1]


def _is_good(run: Path, step: int) -> bool:
    try:
        verify(checkpoint_path(run, step))
    except ModelError:
        return False
    return True
