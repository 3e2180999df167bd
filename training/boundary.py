"""What ends a run before its last step, as one line that says where it can go on."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from attention import AttentionError
from data import DataError
from models import ModelError
from training.recovery import way_on

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EIO}


@contextmanager
def one_line(run: Path) -> Iterator[None]:
    """Turn what the system, torch or another process did to a run into a `ModelError` with its newest good checkpoint.

    Raises:
        ModelError: for mistakes, errors of the system, memory that ran out and processes that are gone.
    """
    try:
        yield
    except (AttentionError, DataError, ModelError, OSError, MemoryError, RuntimeError) as error:
        reason = _reason(error, run)
        if reason is None:
            raise
        # A launcher's other processes say nothing, and need not read checkpoints for it.
        on = f"; {_way_on(run)}" if int(os.environ.get("RANK", 0)) == 0 else ""
        raise ModelError(f"{reason}{on}") from error


def _reason(error: BaseException, run: Path) -> str | None:
    if isinstance(error, OSError):
        what = f"cannot use {error.filename or run}: {error.strerror or error}"
        return f"{what} ({_free(run)} free there)" if error.errno in _FULL else what
    if isinstance(error, ValueError):
        return str(error)
    first = (str(error).splitlines() or [type(error).__name__])[0]
    if isinstance(error, MemoryError | torch.OutOfMemoryError) or "can't allocate memory" in first:
        return f"out of memory ({first}); a smaller train.micro_batch_size needs less"
    if torch.distributed.is_initialized() and any(
        sign in str(error)
        for sign in ("gloo", "Connection closed by peer", "Connection reset by peer", "NCCL")
    ):
        return f"another process of run {run} has ended or cannot be reached"
    return None


def _free(run: Path) -> str:
    try:
        return f"{shutil.disk_usage(run).free / 1e6:.1f} MB"
    except OSError:
        return "unknown space"


def _way_on(run: Path) -> str:
    try:
        return way_on(run)
    except (ModelError, OSError) as error:
        return f"its checkpoints cannot be read: {error}"
