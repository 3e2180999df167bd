"""The runs of a study: which there are, in what state they are, and what each is told."""

import fcntl
import math
import time
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock

from common.files import write_json
from common.hashing import json_hash
from common.reading import read_json
from eval.codec import decode, encode
from storage import log
from storage.checkpoint import checkpoints
from storage.run import CONFIG
from study.definition import Study, options_of, said_by
from training import Config
from training import load as load_config
from training.config import names_config

State = Literal["done", "failed", "running", "ready", "waiting"]


@dataclass(frozen=True)
class Task:
    """A run to train, and to measure unless it only helps to choose a value.

    Attributes:
        name: of the run, a folder in the study's.
        variant, seed: of the grid.
        value: of the tuned key, for a run that helps to choose it; None for a run of the study.
    """

    name: str
    variant: str
    seed: int
    value: float | None = None


@dataclass(frozen=True)
class Record:
    """How a task ended: NAME.json beside the run.

    Attributes:
        asked: fingerprint of what it was told.
        seconds: it took, in the sitting that ended it.
        error: why it failed; None where it did not.
        ended: when, as local time.
        loss: bits per byte of held-out text at its end; None where it failed.
    """

    asked: str
    seconds: float
    error: str | None = None
    ended: str = ""
    loss: float | None = None


def tasks(study: Study) -> list[Task]:
    """Every task: those that choose values first, then seed by seed, so that an early look compares all variants."""
    tuning = study.file.tuning
    choosing = [
        _choosing(variant, seed, value)
        for seed in (tuning.seeds if tuning else [])
        for value in (tuning.values if tuning else [])
        for variant in study.variants
    ]
    return choosing + [
        Task(f"{variant}-seed-{seed}", variant, seed)
        for seed in study.file.seeds
        for variant in study.variants
    ]


def _choosing(variant: str, seed: int, value: float) -> Task:
    """The task that helps to choose a value."""
    return Task(f"{variant}-tuning-{_spelled(value)}-seed-{seed}", variant, seed, value)


def _spelled(value: float) -> str:
    """A number as a key of any numeric type takes it, all of its digits, for a name, too."""
    return str(int(value)) if value.is_integer() else repr(value)


def overrides(study: Study, task: Task) -> list[str] | None:
    """The overrides of a task's run; None where a value is not chosen yet."""
    told = study.overrides(task.variant)
    if study.file.tuning is not None:
        value = chosen(study, task.variant) if task.value is None else task.value
        if value is None:
            return None
        told.append(f"{study.file.tuning.key}={_spelled(value)}")
    return [*told, f"seed={task.seed}", f"name={task.name}", f"out={study.folder}", "train.tracker=none"]


def config(study: Study, task: Task) -> Config:
    """The training config of a task whose values are chosen, compiled only where it says so.

    A run that tried for itself could be compiled where the one it is compared with is not.

    Raises:
        InputError: the config cannot be trained.
    """
    told = overrides(study, task)
    assert told is not None
    found = load_config(study.base, told)
    return replace(found, train=replace(found.train, compile=bool(found.train.compile)))


def chosen(study: Study, variant: str) -> float | None:
    """The value with the lowest loss on held-out text at the end, the mean over the seeds that choose; None where some
    of these runs have not ended, or none succeeded.
    """
    found = losses(study, variant) or {}
    value = min(found, key=found.__getitem__, default=None)
    return None if value is None or found[value] == math.inf else value


def losses(study: Study, variant: str) -> dict[float, float] | None:
    """The mean loss in bits per byte by value of the tuned key; infinite where a run failed; None before all ended."""
    tuning = study.file.tuning
    assert tuning is not None
    found = {}
    for value in tuning.values:
        records = [ended(study, _choosing(variant, seed, value)) for seed in tuning.seeds]
        if None in records:
            return None
        some = [math.inf if record is None or record.loss is None else record.loss for record in records]
        found[value] = sum(some) / len(some)
    return found


def ended(study: Study, task: Task) -> Record | None:
    """How a task ended; None where it has not, was told something else than it would be told now, or left a run that is
    there no more.
    """
    path = record_path(study, task)
    if not path.is_file():
        return None
    record = decode(Record, read_json(path, dict), str(path))
    if record.asked != asked(study, task) or (record.error is None and not _there(study, task)):
        return None
    return record


def _there(study: Study, task: Task) -> bool:
    """Whether a task left what is read of it; of one that helped to choose a value that is its record alone."""
    run = study.folder / task.name
    measured = [options_of(line)[0] for line in study.file.analyses]
    return task.value is not None or (
        (run / CONFIG).is_file()
        and bool(checkpoints(run))
        and all((run / "eval" / f"{name}.json").is_file() for name in measured)
    )


def end(study: Study, task: Task, told: str, seconds: float, error: str | None) -> None:
    """Write down how a task ended that was told what has the fingerprint `told`; the file may say more by now."""
    logged = log.read(study.folder / task.name) if error is None else []
    losses = [line["bits_per_byte"] for line in logged if "bits_per_byte" in line]
    record = Record(
        told,
        round(seconds, 1),
        error,
        time.strftime("%Y-%m-%d %H:%M:%S"),
        losses[-1] if losses else None,
    )
    write_json(record_path(study, task), encode(record))


def asked(study: Study, task: Task) -> str:
    """Fingerprint of what a task is told: base config, overrides with what their files say, what is measured of it."""
    measured = study.file.analyses if task.value is None else []
    told = overrides(study, task)
    said: list[Any] | None = None
    if told is not None:
        said = [said_by(Path(text)) if names_config(text) else text for text in told]
    return json_hash([study.base_config, said, measured])


def state(study: Study, task: Task, *, mine: bool = False) -> State:
    """Whether a task is done, failed, being worked on, ready to be, or waiting for a value to be chosen.

    Args:
        study, task: of it.
        mine: whether the caller has the task's lock.
    """
    if task.value is None and study.file.tuning is not None:
        found = losses(study, task.variant)
        if found is None:
            return "waiting"
        if min(found.values()) == math.inf:
            return "failed"
    record = ended(study, task)
    if record is not None:
        return "done" if record.error is None else "failed"
    return "running" if not mine and _is_held(lock_path(study, task)) else "ready"


def forget_failures(study: Study) -> None:
    """Drop the records of tasks that failed, which are then ready again."""
    for task in tasks(study):
        record = ended(study, task)
        if record is not None and record.error is not None:
            record_path(study, task).unlink(missing_ok=True)


def states(study: Study) -> Mapping[Task, State]:
    """The state of every task."""
    return {task: state(study, task) for task in tasks(study)}


def lock_path(study: Study, task: Task) -> Path:
    """The path of the lock of the worker that has a task."""
    return study.folder / f".{task.name}.task"


def lock_of(study: Study, task: Task) -> FileLock:
    """That lock."""
    study.folder.mkdir(parents=True, exist_ok=True)
    return FileLock(lock_path(study, task))


def _is_held(path: Path) -> bool:
    """Whether a process has the lock of this path, asked without writing: the folder may be somebody else's."""
    try:
        with path.open("rb") as lock:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except FileNotFoundError:
        return False
    except BlockingIOError:
        return True
    return False


def lock_of_process(study: Study, task: Task) -> FileLock:
    """The lock of the process that trains and measures a task, which may outlive its worker."""
    return FileLock(study.folder / f".{task.name}.process")


def begun(study: Study) -> bool:
    """Whether a run of the study has ended, of whatever variant and seed; those that choose values do not count."""
    records = study.folder.glob("*-seed-*.json")
    return any("-tuning-" not in record.name for record in records)


def record_path(study: Study, task: Task) -> Path:
    """The path of a task's record."""
    return study.folder / f"{task.name}.json"


def output_path(study: Study, task: Task) -> Path:
    """The path of what training and measuring a task printed."""
    return study.folder / f"{task.name}.log"
