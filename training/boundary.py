"""What ends a run before its last step, as one line that says where it can go on."""

import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from common.errors import InputError
from common.explain import explain
from models import ModelError
from training.recovery import way_on


@contextmanager
def one_line(run: Path) -> Iterator[None]:
    """Turn mistakes and what the system, torch or another process did to a run into one kind of error.

    Raises:
        ModelError: what happened, and the newest good checkpoint.
    """
    try:
        yield
    except Exception as error:
        reason = explain(error)
        if reason is None:
            raise
        # A launcher's other processes are not heard, and need not read checkpoints.
        on = f"; {_way_on(run)}" if int(os.environ.get("RANK", 0)) == 0 else ""
        raise ModelError(f"{reason}{on}") from error


def _way_on(run: Path) -> str:
    try:
        return way_on(run)
    except (InputError, OSError) as error:
        return f"its checkpoints cannot be read: {error}"
