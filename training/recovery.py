"""Which checkpoint a run can go on from.

A checkpoint is good if it is whole, unchanged since it was written, of the step that its name says, and finite: every
weight and every moment of the optimizer is a number. Whether its model is any good is for the loss to say.
"""

from collections.abc import Iterator
from pathlib import Path

from safetensors import safe_open
from torch import Tensor

from common.errors import InputError
from models import ModelError
from storage import checkpoint_path, checkpoints, verify
from storage.checkpoint import WEIGHTS
from training.checkpoint import RISEN, read_state, recorded_losses
from training.diagnosis import not_finite
from training.sharding import read_optimizer


def newest_checkpoint(run: Path) -> int | None:
    """The step of the newest checkpoint, which is good; None where there is none.

    Raises:
        ModelError: the newest is not good; names the newest good one and how to go back to it.
    """
    steps = checkpoints(run)
    if not steps:
        return None
    try:
        examine(run, steps[-1])
    except InputError as error:
        if isinstance(error.__cause__, PermissionError):
            raise
        good = newest_good(run)
        way = "start again" if good is None else f"resume from step {good}, the newest good checkpoint"
        raise ModelError(f"{error}; to {way}, delete {_newer(run, good)}") from error
    return steps[-1]


def newest_good(run: Path) -> int | None:
    """The step of the newest checkpoint that is good."""
    return next((step for step in reversed(checkpoints(run)) if _is_good(run, step)), None)


def way_on(run: Path) -> str:
    """Where a run that stops here would go on, as a phrase that says no more of a checkpoint than was looked at."""
    step = newest_good(run)
    if step is None:
        return "there is no checkpoint to go back to"
    losses = recorded_losses(run)
    said = f" (training loss {losses[step]:.4g})" if step in losses else ""
    phrase = f"the newest checkpoint that is whole and finite is step {step}{said}"
    best = min(losses, key=losses.__getitem__, default=step)
    if step in losses and losses[step] > losses[best] + RISEN:
        phrase += (
            f", the one of the lowest loss is step {best} ({losses[best]:.4g}): to resume from there, "
            f"delete {_newer(run, best)}"
        )
    return phrase


def examine(run: Path, step: int) -> None:
    """Refuse a checkpoint that is not good.

    Raises:
        ModelError: says what is wrong with it.
    """
    folder = checkpoint_path(run, step)
    sums = verify(folder)
    read_state(folder)
    if not any("optim" in name for name in sums):  # the name differs where the optimizer is sharded
        raise ModelError(f"checkpoint {folder} is not complete: it has no state of the optimizer")
    try:
        damage = not_finite(_weights(folder / WEIGHTS)) or not_finite(read_optimizer(folder))
    except (OSError, MemoryError):
        raise
    except (
        Exception
    ) as error:  # a file that is not what it should be can raise anything in torch and safetensors
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ModelError(f"checkpoint {folder} is damaged: {reason}") from error
    if damage:
        raise ModelError(f"checkpoint {folder} is not finite: {damage}")


def _is_good(run: Path, step: int) -> bool:
    try:
        examine(run, step)
    except (InputError, OSError):
        return False
    return True


def _newer(run: Path, step: int | None) -> str:
    folders = [checkpoint_path(run, other) for other in checkpoints(run) if step is None or other > step]
    return " ".join(map(str, folders))


def _weights(file: Path) -> Iterator[tuple[str, Tensor]]:
    with safe_open(file, "pt") as tensors:
        for name in tensors.keys():  # noqa: SIM118
            yield f"parameter {name}", tensors.get_tensor(name)
