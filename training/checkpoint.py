"""Checkpoints of a run in training: written whole or not at all, and found again."""

import errno
import json
import os
import shutil
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from accelerate.checkpointing import load_accelerator_state, save_accelerator_state
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor
from torch.optim import Optimizer

from common.errors import InputError
from models import ModelError
from storage import checkpoint_path, checkpoints, log, partial_path, prune, publish, write_checksums
from storage.averaged import AVERAGE
from storage.checkpoint import WEIGHTS, remove, save_weights
from training.engine import Engine
from training.launch import agreed, background_group, from_main
from training.noise_scale import NoiseScale
from training.sharding import OPTIMIZER, gathered, load_optimizer, spread, taken_optimizer

STATE = "trainer.json"

RISEN = 0.5
"""Nats per token by which the training loss of the newest checkpoint may exceed that of the best, before the best is
kept beside the newest: a run that diverges must not prune what it was before."""


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
        loss: mean training loss since the checkpoint before, in nats per token; None where no step was taken.
        log: sha256 of metrics.jsonl, which ends with this step; None in older checkpoints.
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
    loss: float | None = None
    log: str | None = None
    noise_scale: NoiseScale = field(default_factory=NoiseScale)
    versions: dict[str, str] = field(
        default_factory=lambda: {name: version(name) for name in ("torch", "accelerate")}
    )


class Checkpointer:
    """Saves and restores one run; every process calls every method.

    In the background, a checkpoint is copied to the CPU's memory, and a thread writes, checks, publishes and prunes
    while the training goes on. There is one at a time: the next save waits for it, and so does the end of the run.

    A checkpoint is the same to whoever reads it, on whatever number of processes it was written: weights are whole,
    and an optimizer is whole or in parts that any process can put together (`training.sharding`). DeepSpeed alone has
    files of its own.
    """

    def __init__(
        self, run: Path, engine: Engine, keep: int, memory: Sequence[set[str]], background: bool = False
    ) -> None:
        """Prepare for the checkpoints of a run.

        Args:
            run: its folder.
            engine: what it trains.
            keep: how many checkpoints.
            memory: what the optimizer remembers of a parameter, one set per kind.
            background: whether checkpoints are written while the training goes on.

        Raises:
            ModelError: in the background under DeepSpeed, which writes by itself.
        """
        if background and engine.deepspeed:
            raise ModelError(
                "DeepSpeed writes checkpoints by itself; use train.checkpoint_async=false with it"
            )
        self._run = run
        self._engine = engine
        self._accelerator = engine.accelerator
        self._keep = keep
        self._memory = memory
        self._background = background
        self._group = background_group() if background else None
        self._writing: tuple[Path, Future[None]] | None = None
        self.thread = ThreadPoolExecutor(1, "checkpoint")
        """Writes in the background; left as a context, it has ended what it began."""

    def save(self, state: TrainerState) -> None:
        """Write the checkpoint of `state.step`, then drop the oldest beyond the number to keep.

        Raises:
            OSError: it, or the one before, cannot be written; what was written of it is gone, and older checkpoints are
                as they were.
        """
        self.finish()
        folder = from_main(self._accelerator, lambda: self._begin(state.step))
        with self._whole_or_absent(folder):
            write: list[Callable[[], None]] = []
            agreed(self._accelerator, lambda: write.append(self._take(folder, state)))
            if not self._background:
                agreed(self._accelerator, write[0])
                return
        self._writing = folder, self.thread.submit(write[0])

    def finish(self) -> None:
        """Wait for what is written in the background.

        Raises:
            OSError: as `save`.
        """
        if self._writing is not None:
            (folder, written), self._writing = self._writing, None
            with self._whole_or_absent(folder):
                agreed(self._accelerator, lambda: written.result())

    @contextmanager
    def _whole_or_absent(self, folder: Path) -> Iterator[None]:
        try:
            yield
        except (InputError, OSError):
            if self._accelerator.is_main_process:
                remove(folder)
            raise

    def _begin(self, step: int) -> Path:
        folder = partial_path(self._run, step)
        folder.mkdir(parents=True)
        return folder

    def _take(self, folder: Path, state: TrainerState) -> Callable[[], None]:
        """Take what the checkpoint holds, as it is now; returns the rest of the work, which needs no more of it."""
        accelerator, engine, copy = self._accelerator, self._engine, self._background
        main, step = accelerator.is_main_process, state.step
        parts: list[Callable[[], object]] = []
        files = {}
        with self._explained(folder):
            if engine.deepspeed:
                accelerator.save_state(str(folder))
                named = accelerator.get_state_dict(engine.root) or {}
                files[WEIGHTS] = {name.partition("network.")[2]: tensor for name, tensor in named.items()}
            else:
                parts.append(
                    taken_optimizer(engine.optimizer, engine.parameters, folder, main, copy, self._group)
                )
                save_accelerator_state(
                    str(folder), [], [], [], [], accelerator.process_index, 0, accelerator.scaler
                )
                files[WEIGHTS] = gathered(engine.network.state_dict(), main, copy)
            if engine.average is not None:
                files[AVERAGE] = gathered(engine.average.weights, main, copy)
            values = asdict(replace(state, log=log.fingerprint(self._run))) if main else {}

        def write() -> None:
            with self._explained(folder):
                for part in parts:
                    part()
                if not main:
                    return
                for name, weights in files.items():
                    save_weights(weights, folder / name)
                (folder / STATE).write_text(json.dumps(values, indent=2) + "\n", encoding="utf-8")
            self._publish(folder, step)

        return write

    @contextmanager
    def _explained(self, folder: Path) -> Iterator[None]:
        """Raise what the system said, which torch and safetensors hide."""
        try:
            yield
        except (RuntimeError, SafetensorError) as error:
            needed = sum(value.nbytes for value in self._engine.parameters.values())
            full = shutil.disk_usage(folder).free < needed
            reason = (errno.ENOSPC, os.strerror(errno.ENOSPC)) if full else (errno.EIO, _one_line(error))
            raise OSError(*reason, str(folder)) from error

    def _publish(self, folder: Path, step: int) -> None:
        write_checksums(folder)
        log.sync(self._run)
        publish(folder, checkpoint_path(self._run, step))
        losses = recorded_losses(self._run)
        best = min(losses, key=losses.__getitem__, default=step)
        risen = step in losses and losses[step] > losses[best] + RISEN
        prune(self._run, self._keep, spare={best} if risen else ())

    def load(self, step: int) -> TrainerState:
        """Restore the checkpoint of a step into the prepared model and optimiser.

        Raises:
            ModelError: it was not made by this run's model, optimiser or data.
        """
        folder = checkpoint_path(self._run, step)
        agreed(self._accelerator, lambda: self._read(folder))
        return read_state(folder)

    def _read(self, folder: Path) -> None:
        accelerator, engine = self._accelerator, self._engine
        way = f"to resume from an older checkpoint, delete {folder}"
        expected = [_settings(group) for group in engine.optimizer.param_groups]
        try:
            if engine.deepspeed:
                accelerator.load_state(str(folder))
                accelerator.step = 0  # counts micro-batches, of which a resumed run may have others in a step
            else:
                engine.network.load_state_dict(spread(load_file(folder / WEIGHTS), engine.parameters))
                if engine.average is not None:
                    engine.average.put(spread(load_file(folder / AVERAGE), engine.parameters))
                engine.optimizer.load_state_dict(load_optimizer(engine.optimizer, engine.parameters, folder))
                load_accelerator_state(
                    str(folder), [], [], [], [], accelerator.process_index, accelerator.scaler
                )
        except (OSError, MemoryError, torch.OutOfMemoryError):
            raise
        except (
            Exception
        ) as error:  # a file that is not what it should be can raise anything in torch and accelerate
            raise ModelError(
                f"checkpoint {folder} does not fit this run: {_one_line(error)}; {way}"
            ) from error
        found = [_settings(group) for group in engine.optimizer.param_groups]
        if not engine.deepspeed and (found != expected or not _fits(engine.optimizer, self._memory)):
            raise ModelError(
                f"checkpoint {folder} does not fit this run: {OPTIMIZER} is of another optimizer; {way}"
            )


def read_state(folder: Path) -> TrainerState:
    """The trainer.json of a checkpoint.

    Raises:
        ModelError: missing, unreadable, or not what training writes into a folder of this name.
    """
    try:
        values: Any = json.loads((folder / STATE).read_text(encoding="utf-8"))
        state = TrainerState(**{**values, "noise_scale": NoiseScale(**values.get("noise_scale", {}))})
    except (OSError, ValueError, TypeError, AttributeError, RecursionError) as error:
        raise ModelError(f"checkpoint {folder} has no readable {STATE}: {_one_line(error)}") from error
    counts = (state.step, state.tokens, state.processes, state.skipped, state.skipped_in_a_row)
    numbers = (state.seconds, 0.0 if state.loss is None else state.loss, *asdict(state.noise_scale).values())
    if (
        any(type(value) is not int or value < 0 for value in counts)
        or any(type(value) not in (int, float) for value in numbers)
        or any(type(value) is not str for value in (state.config, state.data))
        or type(state.log) not in (str, type(None))
        or type(state.versions) is not dict
    ):
        raise ModelError(
            f"checkpoint {folder} is damaged: {STATE} has values of another type than training writes"
        )
    if folder.name.startswith("step-") and folder != checkpoint_path(folder.parents[1], state.step):
        raise ModelError(f"checkpoint {folder} is a copy: its {STATE} is of step {state.step}")
    return state


def recorded_losses(run: Path) -> dict[int, float]:
    """The training loss of each checkpoint that has one on record, by step."""
    losses = {}
    for step in checkpoints(run):
        try:
            loss = read_state(checkpoint_path(run, step)).loss
        except InputError:
            continue
        if loss is not None:
            losses[step] = loss
    return losses


def _settings(group: dict[str, Any]) -> dict[str, Any]:
    """What an optimizer's group is configured by; the learning rate is set anew in every step."""
    return {key: value for key, value in group.items() if key not in ("params", "lr", "initial_lr")}


def _fits(optimizer: Optimizer, memory: Iterable[set[str]]) -> bool:
    """Whether the optimizer can go on from its state."""
    return all(
        isinstance(parameter, Tensor)
        and state.keys() in memory
        and all(isinstance(value, Tensor) for value in state.values())
        and all(
            value.numel() == 1 if name == "step" else value.shape == parameter.shape
            for name, value in state.items()
        )
        for parameter, state in optimizer.state.items()
    )


def _one_line(error: BaseException) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
