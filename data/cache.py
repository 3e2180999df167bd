"""A cache of folders: each is built once, by one process, appears complete or not at all, and is checked at each use.

root/KIND-<hash of what decides it>/
  contents.json     size and sha256 of every file, sealed by a hash of them and of what the folder was built from
  ...               the files

A folder that is not what its contents.json says is built again, with a warning. The check takes 0.1 s per 100 MB.
"""

import json
import os
import re
import shutil
import stat
import tempfile
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from common.files import ELSEWHERE, sync
from common.hashing import file_hash, json_hash
from data.errors import DataError

FORMAT = 2
"""Part of every key: raise it when the files of a cached folder, or the way they are built, change."""

CONTENTS = "contents.json"


def build_once(root: Path, kind: str, identity: Any, build: Callable[[Path], None]) -> Path:
    """The folder `root/kind-<hash of identity>`, filled by `build(folder)` if it is not there yet, or damaged.

    Processes that ask at the same time wait for the first; what one that died in the middle left behind is never taken
    for complete, and removed. DataError: the cache cannot be written, or belongs to somebody not to be trusted.
    """
    key = json_hash([FORMAT, identity])
    final = root / f"{kind}-{key[:20]}"
    if _damage(final, key) is None:
        return final
    with _explained(final), FileLock(f"{final}.lock"):
        damage = _damage(final, key)
        if damage is None:
            return final
        unfinished = Path(tempfile.mkdtemp(prefix=f".{final.name}-", dir=root))
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
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)
            raise
    return final


def remove_orphans(root: Path) -> None:
    """Remove the unfinished folders of builders that are gone."""
    for unfinished in root.glob(".*-*-*"):
        name = re.fullmatch(r"\.([a-z]+-[0-9a-f]{20})-.*", unfinished.name)
        if name is None:
            continue
        try:
            # A builder that lives holds the lock of what it builds.
            with FileLock(root / f"{name[1]}.lock", timeout=0):
                shutil.rmtree(unfinished, ignore_errors=True)
        except (Timeout, OSError):
            continue


def _damage(folder: Path, key: str) -> str | None:
    """What is wrong with a cached folder; None where it is complete and every byte is as it was written."""
    try:
        owner = _stranger(folder)
    except OSError:
        return "it is not there"
    if owner is not None:
        raise DataError(f"the cache folder {folder} {owner}: what it holds cannot be trusted; {ELSEWHERE}")
    try:
        contents = json.loads((folder / CONTENTS).read_bytes())
        if contents["seal"] != json_hash([key, contents["files"]]):
            return f"{CONTENTS} is not of this folder"
        for name, expected in contents["files"].items():
            if not (folder / name).is_file() or _described(folder / name) != expected:
                return f"{name} has changed, or is gone"
    except OSError as error:
        return f"{Path(str(error.filename)).name}: {error.strerror}"
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return f"{CONTENTS} cannot be read"
    return None


def _stranger(folder: Path) -> str | None:
    """Why a folder may hold what another user made up: everybody may write it, or where it lies and it is another's."""
    facts, around = folder.stat(), folder.parent.stat()
    if facts.st_mode & stat.S_IWOTH:
        return "can be written by everybody"
    mine = not hasattr(os, "getuid") or facts.st_uid in (0, os.getuid())
    if around.st_mode & stat.S_IWOTH and not mine:
        return f"belongs to user {facts.st_uid}, where everybody can write"
    return None


def _described(file: Path) -> dict[str, Any]:
    return {"bytes": file.stat().st_size, "sha256": file_hash(file)}


def _seal(folder: Path, key: str) -> None:
    """Write contents.json, and everything to the disk: after a power cut the folder is whole, or not there."""
    files = {file.name: _described(file) for file in sorted(folder.iterdir())}
    (folder / CONTENTS).write_text(
        json.dumps({"seal": json_hash([key, files]), "files": files}, indent=2), encoding="utf-8"
    )
    for file in folder.iterdir():
        file.chmod(0o644)
        sync(file)
    folder.chmod(0o755)
    sync(folder)


@contextmanager
def _explained(folder: Path) -> Iterator[None]:
    """Make one line of an error of the operating system while a folder is built."""
    try:
        yield
    except OSError as error:
        place = error.filename or folder
        raise DataError(
            f"cannot build the cache folder {place}: {error.strerror or error}; {ELSEWHERE}"
        ) from None
