"""Tensors that may lie in parts on several processes, and optimizers whose memory does.

FSDP keeps a part of every parameter on each process. Weights are saved whole; an optimizer's memory is saved in the
parts in which it lies, by torch's distributed checkpoint as safetensors files, and read in whatever parts are wanted:
on one process, or on another number of them.
"""

import warnings
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed
from safetensors import safe_open
from torch import Tensor
from torch.distributed import ProcessGroup
from torch.distributed import checkpoint as dcp
from torch.distributed.checkpoint.api import CheckpointException
from torch.distributed.checkpoint.metadata import TensorStorageMetadata
from torch.distributed.tensor import DTensor, distribute_tensor
from torch.optim import Optimizer
from torch.utils._pytree import tree_map_only

from models import ModelError

OPTIMIZER, PARTS = "optimizer.bin", "optimizer"
"""The file of a whole optimizer in a checkpoint, and the folder of one in parts."""


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def whole(tensor: Tensor) -> Tensor:
    """All of a tensor that may be sharded; every process must ask."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def gathered(state: Mapping[str, Tensor], main: bool, copy: bool = False) -> dict[str, Tensor]:
    """Whole tensors in the memory of the main process, nothing on the others; every process must ask.

    Args:
        state: tensors by name.
        main: whether this is the main process.
        copy: whether they must stay as they are when the training goes on.
    """
    found = {}
    for name, tensor in state.items():
        full = whole(tensor)
        if main:
            found[name] = full.to("cpu", copy=copy)
    return found


def spread(state: Mapping[str, Tensor], others: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Whole tensors in the way in which a process keeps those of the same names; the opposite of `gathered`."""
    return {name: like(tensor, others.get(name, tensor)) for name, tensor in state.items()}


def number(value: Tensor) -> float:
    """A scalar that may be sharded, as a number; every process must ask."""
    return float(whole(value))


def like(tensor: Tensor, other: Tensor) -> Tensor:
    """A whole tensor in the way in which a process keeps another of its shape: its part, where that is sharded."""
    if not isinstance(other, DTensor) or tensor.shape != other.shape:
        return tensor
    return distribute_tensor(tensor.to(other.device), other.device_mesh, other.placements, src_data_rank=None)


def taken_optimizer(
    optimizer: Optimizer,
    parameters: Mapping[str, Tensor],
    folder: Path,
    main: bool,
    copy: bool = False,
    group: ProcessGroup | None = None,
) -> Callable[[], object]:
    """Take what an optimizer remembers; returns its writing into a checkpoint.

    It is written whole, by the main process, or in parts, by every process its own.

    Args:
        optimizer, parameters: of the training.
        folder: of the checkpoint.
        main: whether this is the main process.
        copy: whether the training goes on while it is written.
        group: of processes, through which those that write parts agree then.
    """
    if not any(isinstance(parameter, DTensor) for parameter in parameters.values()):
        if not main:
            return lambda: None
        state = optimizer.state_dict()
        if copy:
            state = tree_map_only(Tensor, lambda tensor: tensor.detach().to("cpu", copy=True), state)
        return lambda: torch.save(state, folder / OPTIMIZER)
    names = {id(parameter): name for name, parameter in parameters.items()}
    memory = {
        f"{names[id(parameter)]}.{kind}": value
        for parameter, state in optimizer.state.items()
        for kind, value in state.items()
    }
    writer = dcp.HuggingFaceStorageWriter(str(folder / PARTS), save_distributed=True)
    if copy:
        saved = dcp.async_save(memory, storage_writer=writer, process_group=group)
        assert isinstance(saved, Future)
        return _plain_errors()(saved.result)
    return _plain_errors()(lambda: dcp.save(memory, storage_writer=writer))


def load_optimizer(optimizer: Optimizer, parameters: Mapping[str, Tensor], folder: Path) -> dict[str, Any]:
    """The state dict of an optimizer from a checkpoint, whole or in parts as this process keeps its parameters.

    Raises:
        ModelError: it remembers something of a parameter that the model does not have.
        Exception: whatever torch raises on files that are not what they should be.
    """
    names = {id(parameter): name for name, parameter in parameters.items()}
    order = [names[id(parameter)] for group in optimizer.param_groups for parameter in group["params"]]
    if (folder / OPTIMIZER).exists():
        saved: dict[str, Any] = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True)
        for index, state in saved["state"].items():
            for kind, value in state.items():
                if isinstance(value, Tensor):
                    state[kind] = like(value, parameters[order[index]])
        return saved
    state = _load_parts(parameters, folder / PARTS)
    return {**optimizer.state_dict(), "state": {index: state[name] for index, name in enumerate(order)}}


def read_optimizer(folder: Path) -> Iterator[tuple[str, Tensor]]:
    """The tensors of an optimizer in a checkpoint, a part at a time where it lies in parts, each with a name for it."""
    if (folder / OPTIMIZER).exists():
        loaded: Any = torch.load(folder / OPTIMIZER, map_location="cpu", weights_only=True, mmap=True)
        for index, state in loaded["state"].items():
            for kind, value in state.items():
                if isinstance(value, Tensor):
                    yield f"the optimizer's {kind} of parameter {index}", value
    for file in sorted((folder / PARTS).glob("*.safetensors")):
        with safe_open(file, "pt") as opened:
            for key in opened.keys():  # noqa: SIM118
                name, _, kind = key.rpartition(".")
                yield f"the optimizer's {kind} of {name}", opened.get_tensor(key)


def _load_parts(parameters: Mapping[str, Tensor], folder: Path) -> dict[str, dict[str, Tensor]]:
    """What is remembered of each parameter, by its name."""
    reader = dcp.HuggingFaceStorageReader(str(folder))
    memory: dict[str, Tensor] = {}
    state: dict[str, dict[str, Tensor]] = {name: {} for name in parameters}
    for key, found in reader.read_metadata().state_dict_metadata.items():
        name, _, kind = key.rpartition(".")
        if name not in parameters:
            raise ModelError(f"it remembers {key}, which is of no parameter here")
        if not isinstance(found, TensorStorageMetadata):
            raise ModelError(f"{key} is no tensor")
        empty = torch.zeros(found.size, dtype=found.properties.dtype)
        memory[key] = state[name][kind] = like(empty, parameters[name])
    alone = not (torch.distributed.is_available() and torch.distributed.is_initialized())
    with _plain_errors(), warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=".*load in a single process")
        dcp.load(memory, storage_reader=reader, no_dist=alone)
    return state


@contextmanager
def _plain_errors() -> Iterator[None]:
    """Raise what went wrong on one of the processes instead of torch's collection of that, which is no Exception."""
    try:
        yield
    except CheckpointException as error:
        raise next(iter(error.failures.values()))[0] from None
