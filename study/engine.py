"""Starting the workers of a study: on this machine, or as jobs of a SLURM cluster, both through submitit."""

import signal
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from common.errors import InputError
from study.definition import Study

LONG = 60 * 24 * 30
"""Minutes after which a worker of this machine is ended: a month."""


def start(study: Study, workers: int, cluster: str, options: Mapping[str, Any]) -> list[Any]:
    """Start workers; returns submitit's jobs.

    Args:
        study: to work on.
        workers: how many.
        cluster: "local" or "slurm".
        options: of the jobs, as submitit takes them: slurm_partition, timeout_min, gpus_per_node and so on.

    Raises:
        InputError: submitit is not installed, there is no such cluster here, or it knows no such option.
    """
    try:
        import submitit
        from submitit.helpers import CommandFunction
    except ImportError as error:
        raise InputError("studies need the package submitit: pip install -e '.[study]'") from error
    try:
        executor = submitit.AutoExecutor(folder=study.folder / "workers", cluster=cluster)
        executor.update_parameters(name=study.name, **({"timeout_min": LONG} | dict(options)))
    except (RuntimeError, ValueError, TypeError, NameError) as error:
        raise InputError(f"workers on {cluster} cannot be started: {error}") from error
    pinned = cluster == "local" and workers > 1
    commands = [
        [
            *(sys.executable, "-m", "study", "work", str(study.path)),
            *(["--pin", f"{worker}/{workers}"] if pinned else []),
        ]
        for worker in range(workers)
    ]
    with _deaf_to_ctrl_c():
        return [executor.submit(CommandFunction(command)) for command in commands]


@contextmanager
def _deaf_to_ctrl_c() -> Iterator[None]:
    """Have processes that are started here leave Ctrl-C to this one: submitit's would answer it with a traceback."""
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)
