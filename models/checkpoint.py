"""Checkpoint folders that are whole or absent: checksums, atomic publication, pruning."""

import hashlib
import json
import os
import re
import shutil
from collections.abc import Iterable
from pathlib import Path

from models.errors import ModelError

CHECKSUMS = "checksums.json"
_STEP = re.compile(r"step-(\d{8,})")


def checkpoint_path(run: str | Path, step: int) -> Path:
    """Where a run keeps the checkpoint of a step."""
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def partial_path(run: str | Path, step: int) -> Path:
    """Where a checkpoint is written before `publish`; what an interrupted save left there is removed."""
    final = checkpoint_path(run, step)
    partial = final.with_name(f".{final.name}.partial")
    if partial.exists():
        shutil.rmtree(partial)
    return partial


def checkpoints(run: str | Path) -> list[int]:
    """Steps of the published checkpoints of a run, ascending."""
    folder = Path(run) / "checkpoints"
    found = [_STEP.fullmatch(entry.name) for entry in folder.iterdir()] if folder.is_dir() else []
    return sorted(int(match[1]) for match in found if match)


def write_checksums(checkpoint: str | Path) -> dict[str, str]:
    """Write checksums.json: the sha256 of every other file of the folder, by relative path; returns them."""
    checkpoint = Path(checkpoint)
    files = sorted(path for path in checkpoint.rglob("*") if path.is_file() and path.name != CHECKSUMS)
    sums = {path.relative_to(checkpoint).as_posix(): sha256(path) for path in files}
    (checkpoint / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n")
    return sums


def verify(checkpoint: str | Path, files: Iterable[str] | None = None) -> dict[str, str]:
    """Compare files with checksums.json; returns the checksums.

    Args:
        checkpoint: a checkpoint folder.
        files: relative paths to check; None: every file.

    Raises:
        ModelError: checksums are missing or unreadable, a file is missing, unlisted or was changed.
    """
    checkpoint = Path(checkpoint)
    try:
        sums: dict[str, str] = json.loads((checkpoint / CHECKSUMS).read_text())
    except (OSError, ValueError) as error:
        raise ModelError(f"checkpoint {checkpoint} is not complete: no readable {CHECKSUMS}") from error
    for name in sums if files is None else files:
        if name not in sums:
            raise ModelError(f"checkpoint {checkpoint} has no checksum for {name}")
        if not (checkpoint / name).is_file():
            raise ModelError(f"checkpoint {checkpoint} lacks {name}")
        if sha256(checkpoint / name) != sums[name]:
            raise ModelError(f"checkpoint {checkpoint} is damaged: {name} does not match its checksum")
    return sums


def publish(partial: str | Path, final: str | Path) -> None:
    """Give a fully written folder its final name, such that a crash leaves the whole folder there or nothing.

    Raises:
        ModelError: the final name is taken.
    """
    partial, final = Path(partial), Path(final)
    if final.exists():
        raise ModelError(f"{final} already exists")
    for path in [*partial.rglob("*"), partial]:
        _sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.rename(partial, final)
    _sync(final.parent)


def prune(run: str | Path, keep: int) -> list[int]:
    """Delete all but the latest `keep` checkpoints; returns the deleted steps.

    Raises:
        ModelError: keep is below 1.
    """
    if keep < 1:
        raise ModelError(f"keep must be at least 1 checkpoint, got {keep}")
    surplus = checkpoints(run)[:-keep]
    for step in surplus:
        # Renamed first: a half-deleted folder must not pass for a checkpoint.
        doomed = partial_path(run, step)
        os.rename(checkpoint_path(run, step), doomed)
        shutil.rmtree(doomed)
    return surplus


def sha256(path: Path) -> str:
    """Hex digest of a file."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
