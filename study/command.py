"""The work of `python -m study`."""

import os
import re
import sys
import time
from collections import Counter
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil
from tqdm import tqdm

from common.errors import InputError
from study import engine
from study.definition import Study, load
from study.seal import seal
from study.tasks import State, Task, config, ended, forget_failures, output_path, states
from study.work import PATIENCE, cores_of
from study.work import work as work_on
from training.forecast import spoken

ORDER: tuple[State, ...] = ("done", "running", "ready", "waiting", "failed")

EVERY = 2.0 if sys.stderr.isatty() else 60.0
"""Seconds between two updates of the bar."""


def run(path: str, workers: int | None, cluster: str, options: list[str], *, again: bool = False) -> int:
    """Seal the claims, start workers, and on this machine wait for them; returns 1 where a task failed.

    What failed earlier is left alone unless it is to be tried again.
    """
    study = load(path)
    check(study)
    seal(study)
    if again:
        forget_failures(study)
    left = [task for task, state in states(study).items() if state in ("ready", "waiting", "running")]
    if not left:
        return _finished(study)
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else 1
    count = workers if workers is not None else cores if cluster == "local" else 1
    if count < 1:
        raise InputError(f"--workers must be at least 1, got {count}")
    if cluster == "local" and count > 1:
        cores_of(0, count)
    jobs = engine.start(study, min(count, len(left)), cluster, dict(map(_option, options)))
    if cluster != "local":
        print(f"{len(jobs)} jobs on {cluster}: {', '.join(job.job_id for job in jobs)}")
        print(f"python -m study status {path} shows how far they are")
        return 0
    try:
        _watch(study, jobs)
    except KeyboardInterrupt:
        print("\nstopping after a checkpoint; the same command goes on", file=sys.stderr)
        _stop()
        raise
    return _finished(study)


def check(study: Study) -> None:
    """Refuse a study one of whose variants could not be trained, before any of them is.

    Raises:
        InputError: its config is wrong; names the variant.
    """
    file, tuning = study.file, study.file.tuning
    seeds = [*file.seeds, *(tuning.seeds if tuning else [])]
    # Whether a seed can be one does not depend on the variant.
    pairs = [(variant, seeds[0]) for variant in study.variants] + [(file.baseline, seed) for seed in seeds]
    for variant, seed in pairs:
        for value in tuning.values if tuning else [None]:
            task = Task(f"{variant}-seed-{seed}", variant, seed, value)
            try:
                config(study, task)
            except ValueError as error:
                raise InputError(f"variant {variant} cannot be trained: {error}") from error


def status(path: str) -> None:
    """Print how many tasks are in which state, how long the rest may take, and why some failed."""
    study = load(path)
    found = states(study)
    print(progress(study, found, workers=max(1, list(found.values()).count("running"))))
    for line in failures(study, found):
        print(line)


def report(path: str, folder: str | None) -> None:
    """Write the report of a study from what has been measured, and what of it is published to a folder."""
    from study.report import publish, write

    study = load(path)
    for line in write(study, seal(study)):
        print(line)
    if folder is not None:
        print(f"wrote {', '.join(map(str, publish(study, Path(folder))))}")


def speed(path: str, rounds: int) -> None:
    """Measure the speed of the variants in turns."""
    from study.speed import measure

    print(f"wrote {measure(load(path), rounds)}; the report shows it")


def export(path: str, folder: str) -> None:
    """Write figures and tables for a paper."""
    from study.export import write

    for written in write(load(path), Path(folder)):
        print(written)


def work(path: str, pin: str | None) -> None:
    """Be one worker."""
    cores = None
    if pin is not None:
        try:
            worker, workers = map(int, pin.split("/"))
        except ValueError as error:
            raise InputError(f"--pin must read I/N, like 0/2, got {pin!r}") from error
        if not 0 <= worker < workers:
            raise InputError(f"--pin {pin}: workers are counted from 0")
        cores = cores_of(worker, workers)
    seal(load(path))
    print(f"{work_on(Path(path), cores)} tasks ended")


def progress(study: Study, found: Mapping[Task, State], workers: int) -> str:
    """One line: how many tasks are in which state, and how long the rest takes at the pace so far."""
    counts = Counter(found.values())
    said = ", ".join(f"{counts[state]} {state}" for state in ORDER if counts[state])
    records = [
        record for task in found if (record := ended(study, task)) is not None and record.error is None
    ]
    left = counts["running"] + counts["ready"] + counts["waiting"]
    if not left:
        return f"{study.name}: {said}"
    if not records:
        return f"{study.name}: {said}; the time left is known once a run has ended"
    seconds = sum(record.seconds for record in records) / len(records) * left / workers
    return f"{study.name}: {said}; about {spoken(seconds)} left with {workers} worker{'s' if workers > 1 else ''}"


def failures(study: Study, found: Mapping[Task, State]) -> list[str]:
    """A line for each task that failed: why, and where its output is."""
    return [
        f"{task.name} failed: {record.error if record else 'no value of the tuned key trains it'}; "
        f"see {output_path(study, task)}"
        for task, state in found.items()
        if state == "failed"
        for record in [ended(study, task)]
    ]


def _stop() -> None:
    """End the workers of this machine; a run that is being trained saves a checkpoint first."""
    workers = psutil.Process().children(recursive=True)
    for process in workers:
        with suppress(psutil.NoSuchProcess):
            process.terminate()
    psutil.wait_procs(workers)


def _finished(study: Study) -> int:
    """Say how the study stands once its workers have ended; 1 where a task failed.

    Raises:
        InputError: the workers ended before all tasks had.
    """
    found = states(study)
    print(progress(study, found, workers=1))
    failed = failures(study, found)
    for line in failed:
        print(line)
    if left := sum(state not in ("done", "failed") for state in found.values()):
        raise InputError(
            f"the workers ended and {left} runs have not; {study.folder / 'workers'} says why; the same command goes on"
        )
    return 1 if failed else 0


def _watch(study: Study, jobs: list[Any]) -> None:
    """Show how many tasks have ended until the jobs have."""
    with tqdm(total=len(states(study)), desc=study.name, unit="run", mininterval=EVERY) as bar:
        while not all(job.done() for job in jobs):
            counts = Counter(states(study).values())
            bar.set_postfix_str(f"{counts['running']} running, {counts['failed']} failed", refresh=False)
            bar.update(counts["done"] + counts["failed"] - bar.n)
            time.sleep(PATIENCE)


def _option(text: str) -> tuple[str, Any]:
    key, separator, value = text.partition("=")
    if not separator:
        raise InputError(f"--job must read key=value, got {text!r}")
    return key, int(value) if re.fullmatch("-?[0-9]+", value) else value
