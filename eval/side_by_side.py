"""Several runs on a CPU, side by side: each core measures with one thread, before the command makes its tables.

A process that has a thread on each core leaves cores idle wherever it computes on one of them; processes of one thread
do not. They write result files, which the command finds when it comes to them. What one refuses is left to the command,
which meets it, too, and says so.
"""

import os
from collections.abc import Callable, Iterator, Sequence
from functools import lru_cache, partial
from pathlib import Path
from typing import Any

import psutil
import torch

from common.errors import InputError
from data.workers import AT_ONCE, WORKERS, count_workers, in_order
from eval import catalogue
from eval.analysis import Analysis, evaluate, known
from eval.subjects.base import Subject
from eval.terminal import SILENCE, progress
from storage.allocation import keep_freed_memory

RULE = (
    "Several runs on a CPU are measured side by side, by one process of one thread for each core, where memory allows "
    f"it; with {WORKERS}=1 in the environment they are measured one after the other."
)

BYTES, BYTES_PER_WEIGHT = 2**30, 24
"""Memory that is kept free for a process: libraries and a batch, and six copies of the weights in float32."""

Task = tuple[str, str, Any]
"""A run as the command line names it, an analysis, and its settings."""


def measure(
    subjects: Sequence[Subject],
    runs: Sequence[str],
    reopen: Callable[[str], Subject],
    analyses: Sequence[tuple[Analysis[Any, Any], Any]],
    *,
    fresh: bool,
) -> set[Path]:
    """Write what result files are missing, if it pays to do so side by side.

    Args:
        subjects: the runs, opened.
        runs: as the command line names them.
        reopen: opens one of them in another process.
        analyses: with their settings.
        fresh: whether results that are there count as missing.

    Returns:
        The files that were written.
    """
    workers = min(count_workers(), torch.get_num_threads())
    if len(runs) < 2 or workers < 2 or not _fits(subjects, workers):
        return set()
    tasks = list(_missing(subjects, runs, analyses, fresh))
    if len(tasks) < max(workers, AT_ONCE):
        return set()
    print(f"\n{len(runs)} runs side by side, on {workers} cores by one thread each", flush=True)
    answers = in_order(partial(_perform, reopen, fresh), tasks, workers)
    return {path for path, written in progress(answers, "side by side", len(tasks)) if written}


def _fits(subjects: Sequence[Subject], workers: int) -> bool:
    """Whether all compute on the CPU, and its memory is enough for so many processes."""
    weights = max(sum(weight.numel() for weight in subject.network.parameters()) for subject in subjects)
    free = psutil.virtual_memory().available
    on_cpu = all(subject.device.type == "cpu" for subject in subjects)
    return on_cpu and workers * (BYTES + BYTES_PER_WEIGHT * weights) < free


def _missing(
    subjects: Sequence[Subject],
    runs: Sequence[str],
    analyses: Sequence[tuple[Analysis[Any, Any], Any]],
    fresh: bool,
) -> Iterator[tuple[Path, Task]]:
    """The result files to write, run by run, each with its task."""
    shared = []
    for analysis, settings in analyses:
        try:
            shared.append((analysis, analysis.shared(subjects, settings)))
        except InputError:
            continue
    for subject, run in zip(subjects, runs, strict=True):
        for analysis, settings in shared:
            if analysis.reusable(settings) and (fresh or known(analysis, subject, settings) is None):
                yield analysis.path(subject), (run, analysis.name, settings)


def _perform(reopen: Callable[[str], Subject], fresh: bool, task: Task) -> bool:
    """Do one task in a process of its own; whether its file is written."""
    run, name, settings = task
    os.environ[SILENCE] = "1"
    torch.set_num_threads(1)
    keep_freed_memory()
    try:
        evaluate(catalogue.get(name), _opened(reopen, run), settings, fresh=fresh)
    except InputError:
        return False
    return True


@lru_cache(maxsize=1)
def _opened(reopen: Callable[[str], Subject], run: str) -> Subject:
    return reopen(run)
