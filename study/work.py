"""Workers: each takes the next task that is ready, trains and measures it in a process of its own, until none is left.

Workers know of each other by locks in the study's folder alone, so they may be processes of one machine or jobs of a
cluster with a common disk. One that dies leaves its task to the others, which resume the run at its last checkpoint,
once the process that was at it has stopped, too.
"""

import os
import shlex
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from multiprocessing import get_context, parent_process
from pathlib import Path
from threading import Thread

import torch
from filelock import Timeout

from common.command import guarded
from common.errors import InputError
from eval.measuring import measure
from storage.checkpoint import checkpoints
from study.definition import Study, load, options_of
from study.tasks import (
    Task,
    asked,
    config,
    end,
    lock_of,
    lock_of_process,
    output_path,
    overrides,
    state,
    tasks,
)
from training import train

PATIENCE = 5.0
"""Seconds between two looks for a task where others are at work on those that remain."""


def work(path: Path, cores: Sequence[int] | None = None) -> int:
    """Work on a study until no task is ready and none will be; returns how many tasks this worker ended.

    Args:
        path: of the study's file.
        cores: processor cores to keep to, with a thread on each; None: all.
    """
    count = 0
    # The server forks a process for each task after its imports, before any thread or GPU is in use.
    context = get_context("forkserver")
    context.set_forkserver_preload([__name__])
    for study, task in _taken(path):
        started, told = time.monotonic(), asked(study, task)
        child = context.Process(target=_perform, args=(path, task, told, cores))
        child.start()
        try:
            child.join()
        except KeyboardInterrupt:
            child.terminate()
            child.join()
            raise
        if child.exitcode == STOPPED:
            break
        error = None if child.exitcode == 0 else _error(output_path(study, task), child.exitcode)
        end(study, task, told, time.monotonic() - started, error)
        count += 1
    return count


STOPPED = 75
"""Exit code of a task that was asked to stop and saved a checkpoint: it has not ended."""


def _taken(path: Path) -> Iterator[tuple[Study, Task]]:
    """Tasks one after the other, as the file has them by then, each locked while its caller is at work on it."""
    while True:
        study = load(path)
        found = {task: state(study, task) for task in tasks(study)}
        for task in (task for task, known in found.items() if known == "ready"):
            try:
                with lock_of(study, task).acquire(timeout=0):
                    if state(study, task, mine=True) == "ready":
                        yield study, task
                        break
            except Timeout:
                continue
        else:
            if not {"running", "ready"} & set(found.values()):
                return
            time.sleep(PATIENCE)


def _perform(path: Path, task: Task, told: str, cores: Sequence[int] | None) -> None:
    """Train and measure a task; the process ends with an exit code, and what it prints is in the task's log."""
    study = load(path)
    Thread(target=_stop_with_worker, daemon=True).start()
    with output_path(study, task).open("ab") as output:
        os.dup2(output.fileno(), 1)
        os.dup2(output.fileno(), 2)
    if cores is not None:
        os.sched_setaffinity(0, cores)
        torch.set_num_threads(len(cores))
    with lock_of_process(study, task):
        guarded(lambda: _train_and_measure(study, task, told))


def _stop_with_worker() -> None:
    """Ask this process to save a checkpoint and leave once its worker has ended, however that was."""
    worker = parent_process()
    assert worker is not None
    worker.join()
    os.kill(os.getpid(), signal.SIGTERM)


def _train_and_measure(study: Study, task: Task, told: str) -> int:
    changes = overrides(study, task) if task in tasks(study) else None
    if changes is None or asked(study, task) != told:
        raise InputError(f"{study.path}, or a config that it names, has changed since this run was begun")
    print(f"$ python train.py {os.path.relpath(study.base)} {shlex.join(changes)} --resume", flush=True)
    chosen = config(study, task)
    run = train(chosen, resume=True)
    if max(checkpoints(run), default=0) < chosen.train.steps:
        return STOPPED
    for line in study.file.analyses if task.value is None else ():
        name, options = options_of(line)
        print(f"$ python -m eval {line} {run}", flush=True)
        measure(f"python -m eval {name}", [name], [*options, str(run)], report=False)
    return 0


def _error(output: Path, code: int | None) -> str:
    """Why a task failed: the last line of its log that says so, else how its process ended."""
    lines = output.read_text(encoding="utf-8", errors="replace").splitlines()
    if code is not None and code < 0:
        return f"its process was ended by signal {-code}"
    said = next((line for line in reversed(lines) if line.startswith("error")), None)
    return said.partition(": ")[2] if said else f"its process ended with exit code {code}"


def cores_of(worker: int, workers: int) -> list[int]:
    """The cores that one of several workers of this machine keeps to.

    Raises:
        InputError: more workers than cores.
    """
    available = sorted(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else []
    if not available:
        raise InputError(f"workers cannot be pinned to cores on {sys.platform}; use --workers 1")
    if workers > len(available):
        raise InputError(f"{workers} workers on {len(available)} cores; take at most one per core")
    return available[worker::workers]
