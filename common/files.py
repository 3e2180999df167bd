"""The cache folder, and the way of files to the disk."""

import json
import os
from pathlib import Path
from typing import Any

from common.errors import InputError

ELSEWHERE = "set ATTENTION_ZOO_CACHE to a folder of your own that can be written"


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else $ATTENTION_ZOO_CACHE, else attention-zoo in $XDG_CACHE_HOME or ~/.cache; made where missing.

    The same folder as that of compiled kernels, which refuse one that others can write: it is made for its owner alone.
    One that cannot be written serves what it holds. InputError: it cannot be made.
    """
    home = os.environ.get("XDG_CACHE_HOME", "")
    usual = Path(home if os.path.isabs(home) else "~/.cache") / "attention-zoo"
    named = cache_dir or os.environ.get("ATTENTION_ZOO_CACHE") or usual
    try:
        root = Path(named).expanduser()
        root.mkdir(mode=0o700, parents=True, exist_ok=True)
    except (OSError, RuntimeError, ValueError) as error:
        said = getattr(error, "strerror", None) or error
        raise InputError(
            f"cannot create the cache folder {os.fspath(named)[:300]} ({said}); {ELSEWHERE}"
        ) from None
    return root


def sync(path: Path) -> None:
    """Write a file, or the entries of a folder, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_json(path: Path, value: Any) -> None:
    """Write a JSON file as `write` does.

    Raises:
        OSError: it cannot be written.
        ValueError: a number that is not finite.
    """
    write(path, json.dumps(value, indent=1, allow_nan=False) + "\n")


def write(path: Path, content: str | bytes) -> None:
    """Write a file such that a reader, or a disk without power or room, has the old one or the new one, whole.

    Raises:
        OSError: it cannot be written.
    """
    beside = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        beside.write_bytes(content.encode() if isinstance(content, str) else content)
        sync(beside)
        beside.replace(path)
    except OSError as error:
        # A disk without room names no file, and others the one beside.
        error.filename = str(path)
        raise
    finally:
        beside.unlink(missing_ok=True)
    sync(path.parent)
