"""A copy of a run with the moving average of its weights: a run directory like any other, so everything opens it."""

import shutil
from functools import partial
from pathlib import Path

from models.errors import ModelError
from storage.checkpoint import checkpoint_path, verify
from storage.derived import derive
from storage.run import Run

AVERAGE = "ema.safetensors"
"""The file of the average in a checkpoint."""


def save_averaged(run: Run, path: str | Path) -> Path:
    """Write a run directory with one checkpoint, whose weights are the average that a run's checkpoint keeps.

    Args:
        run: whose average, and of which step.
        path: the new directory, which must not exist.

    Raises:
        ModelError: the directory exists, or the checkpoint keeps no average, or a damaged one.
    """
    source = checkpoint_path(run.path, run.step)
    if not (source / AVERAGE).is_file():
        raise ModelError(f"checkpoint {source} keeps no average of weights; train with train.ema=0.999")
    checksum = verify(source, [AVERAGE])[AVERAGE]
    return derive(
        run,
        path,
        partial(shutil.copyfile, source / AVERAGE),
        averaged={"run": run.name, "step": run.step, "checkpoint": checksum},
    )
