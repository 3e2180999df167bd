"""metrics.jsonl: one JSON object per line, each with the step it belongs to."""

import json
import math
import os
from pathlib import Path
from typing import Any

METRICS = "metrics.jsonl"


def append(run: Path, record: dict[str, Any]) -> None:
    """Add one line; numbers that JSON cannot hold become null."""
    clean = {
        key: None if isinstance(value, float) and not math.isfinite(value) else value
        for key, value in record.items()
    }
    with (run / METRICS).open("a") as file:
        file.write(json.dumps(clean, allow_nan=False) + "\n")


def read(run: Path) -> list[dict[str, Any]]:
    """All complete lines; a last line that a crash cut short is left out."""
    path = run / METRICS
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines()
    return [record for record in map(_parse, lines) if record is not None]


def truncate(run: Path, step: int) -> None:
    """Forget what was logged after `step`, which a resumed run is about to log again."""
    path = run / METRICS
    if not path.is_file():
        return
    kept = [record for record in read(run) if record["step"] <= step]
    partial = path.with_suffix(".partial")
    partial.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(partial, path)


def _parse(line: str) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    return record if isinstance(record, dict) and isinstance(record.get("step"), int) else None
