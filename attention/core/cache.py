"""The cache of what kernels compile, with the checks before any of it is loaded, which is to run it.

Beside each library stands NAME.json with its size and sha256. A library is served where both are regular files that
only the user and root can write, in a folder of that kind, and the bytes are those recorded; else it is made anew.
"""

import hashlib
import json
import os
import shutil
import stat
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

UNFINISHED = ".compiling-"
"""Prefix of the folders in which a library is being made."""


def cache_directory() -> Path:
    """$ATTENTION_ZOO_CACHE, else attention-zoo in $XDG_CACHE_HOME or ~/.cache. RuntimeError: there is no home."""
    if chosen := os.environ.get("ATTENTION_ZOO_CACHE"):
        return Path(chosen).expanduser()
    home = Path(os.environ.get("XDG_CACHE_HOME", ""))
    return (home if home.is_absolute() else Path.home() / ".cache") / "attention-zoo"


def intact(library: Path) -> bool:
    """Whether a library is there and holds, byte by byte, what was recorded when it was made."""
    try:
        recorded = json.loads(_read(_record_of(library)))
        content = _read(library)
    except (OSError, ValueError, RecursionError):
        return False
    return recorded == _described(content)


def keep(made: Path, library: Path) -> None:
    """Move a finished library to its place, with its record; on the disk before it is seen."""
    record = made.with_name("record")
    record.write_text(json.dumps(_described(made.read_bytes())) + "\n", encoding="utf-8")
    for path, place in ((record, _record_of(library)), (made, library)):
        path.chmod(0o600)
        _sync(path)
        path.replace(place)
    _sync(library.parent)


def recall(note: Path) -> object:
    """What a note of `remember` says, as JSON has it; None where it cannot be read or others could have written it."""
    try:
        return json.loads(_read(note)) if trusted(note.parent) else None
    except (OSError, ValueError, RecursionError):
        return None


def remember(note: Path, content: object) -> None:
    """Keep a note, seen whole or not at all. OSError: it cannot be kept, or others could change it."""
    open_folder(note.parent)
    descriptor, name = tempfile.mkstemp(prefix=UNFINISHED, dir=note.parent)
    try:
        with open(descriptor, "w", encoding="utf-8") as file:
            file.write(json.dumps(content, indent=1) + "\n")
        os.replace(name, note)
    except BaseException:
        os.unlink(name)
        raise


def discard(library: Path) -> None:
    """Forget a library that cannot be loaded, so that the next process makes it anew."""
    for path in (library, _record_of(library)):
        with suppress(OSError):
            path.unlink()


def open_folder(folder: Path) -> None:
    """Make the folder if it is missing, for its owner alone.

    Raises:
        OSError: it cannot be made, or others could change what is in it.
    """
    for path in reversed((folder, *folder.parents)):
        if not path.exists():
            path.mkdir(mode=0o700, exist_ok=True)
    if fault := _untrusted(folder.stat()):
        raise PermissionError(
            f"{fault}, so that others could choose what is run; set ATTENTION_ZOO_CACHE to a folder of your own, or "
            f"take their right away (chmod go-w)"
        )


def trusted(folder: Path) -> bool:
    """Whether it is there and nobody else could have put a file into it."""
    try:
        return not _untrusted(folder.stat())
    except OSError:
        return False


@contextmanager
def workspace(folder: Path) -> Iterator[Path]:
    """A folder to make a library in, gone afterwards. Under the lock only: what a killed process left goes, too."""
    for left in folder.glob(f"{UNFINISHED}*"):
        shutil.rmtree(left, ignore_errors=True)
    path = Path(tempfile.mkdtemp(prefix=UNFINISHED, dir=folder))
    try:
        yield path
    finally:
        with suppress(OSError):
            shutil.rmtree(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _record_of(library: Path) -> Path:
    return library.with_suffix(".json")


def _described(content: bytes) -> dict[str, object]:
    return {"bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}


def _read(path: Path) -> bytes:
    """Read a regular file, no link to one, that nobody else can write. OSError: it is not."""
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK)
    with open(descriptor, "rb") as file:
        found = os.fstat(descriptor)
        if not stat.S_ISREG(found.st_mode) or _untrusted(found):
            raise PermissionError(f"{path} is not to be trusted")
        return file.read()


def _untrusted(found: os.stat_result) -> str | None:
    """Say why others could have written a file or folder of this status, None if only the user and root could."""
    if found.st_uid not in (0, os.geteuid()):
        return f"it belongs to user {found.st_uid}"
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        return f"others can write it ({stat.filemode(found.st_mode)})"
    return None
