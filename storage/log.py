"""metrics.jsonl: one JSON object per line, each with the step it belongs to."""

import json
import math
import os
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.hashing import text_hash
from common.reading import parse_json
from common.shapes import mismatch
from models.errors import ModelError

METRICS = "metrics.jsonl"


def append(run: Path, record: dict[str, Any]) -> None:
    """Add one line; numbers that JSON cannot hold become null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    path = run / METRICS
    try:
        with path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(clean, allow_nan=False) + "\n")
    except OSError as error:  # which does not name the file where it comes from writing
        raise OSError(error.errno, error.strerror, str(path)) from error


def sync(run: Path) -> None:
    """Have what was logged so far outlive a power cut."""
    path = run / METRICS
    if path.exists():
        with path.open("ab") as file:
            os.fsync(file.fileno())


def fingerprint(run: Path) -> str:
    """sha256 of the log as it is."""
    return text_hash(_text(run))


def read(run: Path) -> list[dict[str, Any]]:
    """All records; lines that are damaged, or that a crash cut short, are left out.

    Raises:
        ModelError: the log cannot be read.
    """
    return [record for line in _text(run).splitlines() if (record := _parse(line)) is not None]


def truncate(run: Path, step: int) -> None:
    """Forget what was logged after `step`, which a resumed run is about to log again, and lines that are damaged."""
    before = _text(run)
    lines = [(line, _parse(line)) for line in before.splitlines()]
    after = "".join(line + "\n" for line, record in lines if record is not None and record["step"] <= step)
    if after == before:
        return
    partial = partial_log(run)
    with partial.open("w", encoding="utf-8") as file:
        file.write(after)
        file.flush()
        os.fsync(file.fileno())
    os.replace(partial, run / METRICS)


def partial_log(run: Path) -> Path:
    """The log's path while it is written, before it takes the place of the old one."""
    return (run / METRICS).with_suffix(".partial")


def _text(run: Path) -> str:
    path = run / METRICS
    try:
        # A byte that is not UTF-8 costs its line, not the log.
        return path.read_text(encoding="utf-8", errors="replace")
    except FileNotFoundError:
        return ""
    except OSError as error:
        raise ModelError(f"cannot read the log {path}: {error.strerror}") from error


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = parse_json(line, METRICS)
    except InputError:
        return None
    numbers = (
        {key: value for key, value in record.items() if key != "skipped"} if isinstance(record, dict) else {}
    )
    whole = type(numbers.get("step")) is int and mismatch(numbers, dict[str, float | None]) is None
    return record if whole else None
