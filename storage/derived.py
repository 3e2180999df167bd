"""A run directory made of another: one checkpoint with other weights, which everything opens."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from storage.checkpoint import WEIGHTS, checkpoint_path, partial_path, publish, write_checksums
from storage.run import Run, create_run


def derive(run: Run, path: str | Path, write: Callable[[Path], object], **record: Mapping[str, Any]) -> Path:
    """Write a run directory with one checkpoint, of the step of `run`; returns the directory.

    Args:
        run: whose config, tokenizer and data it has.
        path: the new directory, which must not exist.
        write: writes its weights to the file that it is given.
        record: where they come from, as `create_run` takes it.

    Raises:
        ModelError: the directory exists.
    """
    path = create_run(
        path,
        config={**run.config, "name": Path(path).name},
        tokenizer=run.tokenizer,
        train_length=run.train_length,
        data=run.data,
        **record,
    )
    partial = partial_path(path, run.step)
    partial.mkdir(parents=True)
    write(partial / WEIGHTS)
    write_checksums(partial)
    publish(partial, checkpoint_path(path, run.step))
    return path
