"""A cache of folders: each is built once, by one process, and appears complete or not at all."""

import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from filelock import FileLock

from data.errors import DataError

FORMAT = 1
"""Part of every key: raise it when the files of a cached folder, or the way they are built, change."""


def cache_root(cache_dir: str | os.PathLike[str] | None = None) -> Path:
    """`cache_dir`, else $ATTENTION_ZOO_CACHE, else ~/.cache/attention-zoo. DataError: not writable."""
    root = Path(cache_dir or os.environ.get("ATTENTION_ZOO_CACHE") or "~/.cache/attention-zoo").expanduser()
    try:
        root.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        hint = "set ATTENTION_ZOO_CACHE to a folder that can be written"
        raise DataError(f"cannot create the cache folder {root} ({error.strerror}); {hint}") from None
    if not os.access(root, os.W_OK):
        raise DataError(f"the cache folder {root} is not writable; set ATTENTION_ZOO_CACHE to one that is")
    return root


def digest(value: Any) -> str:
    """Hex sha256 of a JSON value, the same whatever the order of its keys."""
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def build_once(root: Path, kind: str, identity: Any, build: Callable[[Path], None]) -> Path:
    """The folder `root/kind-<hash of identity>`, filled by `build(folder)` if it is not there yet.

    Processes that ask at the same time wait for the first; one that dies in the middle leaves nothing behind
    that a later one would take for complete.
    """
    final = root / f"{kind}-{digest([FORMAT, identity])[:20]}"
    if final.is_dir():
        return final
    with FileLock(f"{final}.lock"):
        if not final.is_dir():
            unfinished = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=root))
            try:
                build(unfinished)
                unfinished.chmod(0o755)
                unfinished.rename(final)
            except BaseException:
                shutil.rmtree(unfinished, ignore_errors=True)
                raise
    return final
