"""One process at a time trains in a run directory."""

import json
import os
import socket
import time
from pathlib import Path
from types import TracebackType
from typing import Self

from filelock import FileLock, Timeout

from models import ModelError


class RunLock:
    """A lock beside the run directory, which need not exist yet; the system frees it when its process ends, however.

    On a file system without locks between machines (some NFS mounts) it holds on one machine only.
    """

    def __init__(self, run: Path) -> None:
        self._run = run
        self._file = run.with_name(f".{run.name}.lock")
        self._lock = FileLock(self._file)

    def acquire(self) -> None:
        """Take the lock and write down who has it.

        Raises:
            ModelError: another process has it, or the folder of runs cannot be written.
        """
        try:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            self._lock.acquire(timeout=0)
            me = {
                "pid": os.getpid(),
                "host": socket.gethostname(),
                "since": time.strftime("%Y-%m-%d %H:%M:%S"),
            }
            self._file.write_text(json.dumps(me) + "\n", encoding="utf-8")
        except Timeout as error:
            raise ModelError(
                f"run {self._run} is being trained by {self._holder()}; wait for it, or stop it"
            ) from error
        except OSError as error:
            raise ModelError(f"cannot create the run directory {self._run}: {error.strerror}") from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if self._lock.is_locked:
            # Still under the lock; whoever opened this file meanwhile finds it unlinked and looks again.
            self._file.unlink(missing_ok=True)
            self._lock.release()

    def _holder(self) -> str:
        try:
            who = json.loads(self._file.read_text(encoding="utf-8"))
            return f"process {who['pid']} on {who['host']} since {who['since']}"
        except (OSError, ValueError, KeyError, TypeError):
            return "another process"
