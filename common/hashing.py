"""Fingerprints of files and of values."""

import hashlib
import json
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any


def file_hash(path: Path) -> str:
    """Hex sha256 of a file's content. OSError: it cannot be read."""
    with path.open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


def files_hash(paths: Iterable[Path]) -> str:
    """Hex sha256 of the sha256 of each file, in this order. OSError: one cannot be read."""
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_hash(path)))
    return digest.hexdigest()


def text_hash(text: str) -> str:
    """Hex sha256 of a text as UTF-8."""
    return hashlib.sha256(text.encode()).hexdigest()


def json_hash(value: Any, *, otherwise: Callable[[Any], Any] | None = None) -> str:
    """Hex sha256 of a JSON value, the same whatever the order of its keys; `otherwise` makes JSON of what is none.

    Raises:
        TypeError: a part that is no JSON, and nothing to make it so.
    """
    return text_hash(json.dumps(value, sort_keys=True, default=otherwise))
