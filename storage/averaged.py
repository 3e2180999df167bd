"""A copy of a run with the moving average of its weights: a run directory like any other, so everything opens it."""

import shutil
from pathlib import Path

from models.errors import ModelError
from storage.checkpoint import WEIGHTS, checkpoint_path, partial_path, publish, verify, write_checksums
from storage.run import Run, create_run

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
    path = create_run(
        path,
        config={**run.config, "name": Path(path).name},
        tokenizer=run.tokenizer,
        train_length=run.train_length,
        data=run.data,
        averaged={"run": run.name, "step": run.step, "checkpoint": checksum},
    )
    partial = partial_path(path, run.step)
    partial.mkdir(parents=True)
    shutil.copyfile(source / AVERAGE, partial / WEIGHTS)
    write_checksums(partial)
    publish(partial, checkpoint_path(path, run.step))
    return path
