"""A cache of folders: each is built once, by one process, appears complete or not at all, and is checked at each use.

root/KIND-<hash of what decides it>/
  contents.json     size, time and sha256 of every file, sealed by a hash of them and of what the folder was built from
  ...               the files

A folder that is not what its contents.json says is built again, with a warning. At each use the seal and the size of
every file are checked, and the sha256 of every file that is not as old as it should be; of a folder of at most
`READ_WHOLE` bytes all are read, which takes 0.1 s per 100 MB. `damaged` reads all of every folder.
"""

import json
import os
import re
import shutil
import socket
import stat
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.files import ELSEWHERE, sync
from common.hashing import file_hash, json_hash
from data.errors import DataError, StoppedError

FORMAT = 3
"""Part of every key: raise it when the files of a cached folder, or the way they are built, change."""

CONTENTS = "contents.json"
READ_WHOLE = 256 << 20
REMINDER = 60.0
"""Seconds after which one who waits says again for whom."""
KEPT = 7 * 24 * 3600
"""Seconds that the unfinished folder of a build that can go on is kept after the last word of its builder."""


def build_once(
    root: Path, kind: str, identity: Any, build: Callable[[Path], None], resumable: bool = False
) -> Path:
    """The folder `root/kind-<hash of identity>`, filled by `build(folder)` if it is not there yet, or damaged.

    Processes that ask at the same time wait for the first. What one that died in the middle left behind is never taken
    for complete: it is removed, or, if the build is `resumable`, handed to the next `build`. DataError: the cache
    cannot be written, or belongs to somebody not to be trusted.
    """
    key = json_hash([FORMAT, identity])
    final = root / f"{kind}-{key[:20]}"
    if damage_of(final, key) is None:
        return final
    with _explained(final), _alone(final):
        damage = damage_of(final, key)
        if damage is None:
            return final
        unfinished = root / f".{final.name}-partial"
        if not resumable:
            shutil.rmtree(unfinished, ignore_errors=True)
        unfinished.mkdir(mode=0o700, exist_ok=True)
        _trusted(unfinished)
        try:
            build(unfinished)
            _seal(unfinished, key)
            if final.exists():
                warnings.warn(
                    f"the cache folder {final} is damaged ({damage}) and was built again", stacklevel=2
                )
                shutil.rmtree(final) if final.is_dir() else final.unlink()
            unfinished.rename(final)
            sync(root)
        except BaseException as error:
            if not resumable or (isinstance(error, DataError) and not isinstance(error, StoppedError)):
                shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return final


def remove_orphans(root: Path) -> None:
    """Remove the unfinished folders of builders that are gone; those that can go on, a week after their last word."""
    for unfinished in root.glob(".*-*-*"):
        name = re.fullmatch(r"\.([a-z]+-[0-9a-f]{20})-.*", unfinished.name)
        if name is None:
            continue
        try:
            last = max(place.stat().st_mtime for place in (unfinished, *unfinished.iterdir()))
            if unfinished.name.endswith("-partial") and time.time() - last < KEPT:
                continue
            # A builder that lives holds the lock of what it builds.
            with FileLock(root / f"{name[1]}.lock", timeout=0):
                shutil.rmtree(unfinished, ignore_errors=True)
        except (Timeout, OSError):
            continue


def damaged(root: Path) -> Iterator[tuple[Path, str | None]]:
    """Every cached folder, and what is wrong with it once every byte of it was read; None where nothing is."""
    for folder in sorted(root.glob("*-" + "[0-9a-f]" * 20)):
        try:
            key = json.loads((folder / CONTENTS).read_bytes())["key"]
        except (OSError, ValueError, KeyError, TypeError, RecursionError):
            yield folder, f"{CONTENTS} cannot be read"
            continue
        yield folder, damage_of(folder, key, read_whole=True)


def damage_of(folder: Path, key: str, read_whole: bool = False) -> str | None:
    """What is wrong with a cached folder; None where it is complete and every file is as it was written.

    DataError: somebody else may have made it up.
    """
    try:
        _trusted(folder)
    except OSError:
        return "it is not there"
    try:
        contents = json.loads((folder / CONTENTS).read_bytes())
        files = contents["files"]
        if contents["seal"] != json_hash([key, files]):
            return f"{CONTENTS} is not of this folder"
        read_whole = read_whole or sum(facts["bytes"] for facts in files.values()) <= READ_WHOLE
        for name, expected in files.items():
            if not _is(folder / name, expected, read_whole):
                return f"{name} has changed, or is gone"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{CONTENTS} cannot be read"
    return None


def _is(file: Path, expected: dict[str, Any], read_whole: bool) -> bool:
    facts = file.stat()
    if not stat.S_ISREG(facts.st_mode) or facts.st_size != expected["bytes"]:
        return False
    if not read_whole and facts.st_mtime_ns == expected["mtime_ns"]:
        return True
    return file_hash(file) == expected["sha256"]


def _trusted(folder: Path) -> None:
    """DataError: everybody may write a folder, or where it lies and it is another's. OSError: it is not there."""
    facts, around = folder.stat(), folder.parent.stat()
    mine = not hasattr(os, "getuid") or facts.st_uid in (0, os.getuid())
    if facts.st_mode & stat.S_IWOTH:
        owner = "can be written by everybody"
    elif around.st_mode & stat.S_IWOTH and not mine:
        owner = f"belongs to user {facts.st_uid}, where everybody can write"
    else:
        return
    raise DataError(f"the cache folder {folder} {owner}: what it holds cannot be trusted; {ELSEWHERE}")


def _described(file: Path) -> dict[str, Any]:
    facts = file.stat()
    return {"bytes": facts.st_size, "mtime_ns": facts.st_mtime_ns, "sha256": file_hash(file)}


def _seal(folder: Path, key: str) -> None:
    """Write contents.json, and everything to the disk: after a power cut the folder is whole, or not there."""
    files = {file.name: _described(file) for file in sorted(folder.iterdir()) if file.name != CONTENTS}
    contents = {"key": key, "seal": json_hash([key, files]), "files": files}
    (folder / CONTENTS).write_text(json.dumps(contents, indent=2), encoding="utf-8")
    for file in folder.iterdir():
        file.chmod(0o644)
        sync(file)
    folder.chmod(0o755)
    sync(folder)


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Hold the lock of a folder; who waits for it says every minute who builds, on one or two ranks of a machine."""
    lock, builder = FileLock(f"{folder}.lock"), Path(f"{folder}.builder")
    speaks = os.environ.get("LOCAL_RANK", "0") in ("0", "1")
    while not lock.is_locked:
        try:
            lock.acquire(timeout=REMINDER)
        except Timeout:
            who = builder.read_text(encoding="utf-8") if builder.exists() else "another process"
            if speaks:
                print(f"waiting for {who}, which builds {folder}", file=sys.stderr, flush=True)
    try:
        builder.write_text(f"process {os.getpid()} on {socket.gethostname()}", encoding="utf-8")
        yield
    finally:
        builder.unlink(missing_ok=True)
        lock.release()


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Make one line of an error of the operating system while a folder is built."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise StoppedError(
            f"cannot build the cache folder {place}: {error.strerror or error}; {ELSEWHERE}"
        ) from None
