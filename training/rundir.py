"""Whether a run starts, continues, or is refused: nothing that exists is ever overwritten."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from data import Prepared
from models import ModelError
from storage import create_run, log
from storage.checkpoint import checkpoint_path, remove
from storage.run import CONFIG, RECORD, own_tokenizer, read_run
from training.checkpoint import read_state
from training.config import BEFORE, Config, as_dict, differences
from training.initial import find
from training.longer import check_steps, record_steps
from training.recovery import newest_checkpoint


def check_free(config: Config, resume: bool) -> None:
    """Refuse a run directory that cannot be used, before any work is done.

    Raises:
        ModelError: it holds something else than a run, or a run that was not asked to be resumed.
    """
    path = config.path
    if not _occupied(path):
        return
    if not (path / CONFIG).is_file() or not (path / RECORD).is_file():
        raise ModelError(f"{path} exists and is not a run of this project; choose another name= or out=")
    if not resume:
        raise ModelError(f"run {path} exists; add --resume to continue it, or choose another name=")


def began(config: Config, key: str) -> bool | None:
    """What a key of `train`, which the config leaves open, was when a run that exists began; None for a new run.

    It was what `BEFORE` says where there was no choice yet.
    """
    if not _occupied(config.path):
        return None
    saved = read_run(config.path)[0].get("train") or {}
    return bool(saved.get(key, BEFORE[f"train.{key}"]))


def learns_ends(config: Config) -> bool:
    """Whether a run learns where documents end, where its config leaves that open: a new one does."""
    return began(config, "document_end") is not False


def open_run(config: Config, prepared: Prepared) -> int | None:
    """Make the run directory, or check that the one there is this run's; the caller holds its lock.

    Args:
        config: with the model resolved.
        prepared: the data; its fingerprint must be that of the run.

    Returns:
        The step to continue from, None for the beginning.

    Raises:
        ModelError: the config or data differ from the run's, or its newest checkpoint is damaged.
    """
    path = config.path
    _tidy(path)
    if not _occupied(path):
        _create(config, prepared)
        return None
    saved, record = read_run(path)
    same_data = record.get("data") == prepared.fingerprint
    changed = differences(saved, config, same_data=same_data)
    if any(not change.startswith("train.steps:") for change in changed):
        raise ModelError(
            f"run {path} was started with another config ({'; '.join(changed)}); choose another name="
        )
    if not same_data:
        raise ModelError(
            f"run {path} was started on other data: the corpus or the tokenizer has changed since"
        )
    own_tokenizer(path, record["tokenizer"])
    step = newest_checkpoint(path)
    check_steps(saved, config, step or 0)
    record_steps(saved, record, config, step or 0)
    log.truncate(path, -1 if step is None else step)
    if step is not None:
        _compare_log(config, saved, step)
    return step


def _tidy(path: Path) -> None:
    """Remove what a killed sitting left half-written."""
    leftovers = [path.with_name(f".{path.name}.partial"), log.partial_log(path)]
    for leftover in [*leftovers, *(path / "checkpoints").glob(".step-*.partial")]:
        remove(leftover)


def _compare_log(config: Config, saved: Mapping[str, Any], step: int) -> None:
    """Say so if the log, cut to a checkpoint's step, is not what it was when that was saved; the run goes on."""
    written = read_state(checkpoint_path(config.path, step)).log
    if written == log.fingerprint(config.path):
        return
    every = config.train.log_every
    logged = {record["step"] for record in log.read(config.path) if record.keys() & {"loss", "skipped"}}
    regular = saved.get("train", {}).get("log_every") == every
    lost = sorted(set(range(every, step + 1, every)) - logged) if regular else []
    if written is not None or lost:
        listed = ", ".join(map(str, lost[:5])) + (" ..." if len(lost) > 5 else "")
        gaps = f"; steps it lacks: {listed}" if lost else ""
        print(f"{config.path / log.METRICS} is not the log that step {step} was saved with{gaps}")


def _create(config: Config, prepared: Prepared) -> None:
    path = config.path
    initial = None if config.train.init_from is None else find(config, prepared.tokenizer).record
    try:
        if path.is_dir():
            path.rmdir()
        create_run(
            path,
            config=as_dict(config),
            tokenizer=prepared.tokenizer,
            train_length=config.train.length,
            data=prepared.fingerprint,
            init_from=initial,
        )
    except OSError as error:
        raise ModelError(f"cannot create the run directory {path}: {error.strerror}") from error


def _occupied(path: Path) -> bool:
    return path.exists() and not (path.is_dir() and not any(path.iterdir()))
