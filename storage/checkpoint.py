"""Checkpoint folders that are whole or absent: checksums, atomic publication, pruning."""

import json
import os
import re
import shutil
from collections.abc import Collection, Iterable, Mapping
from pathlib import Path
from typing import Any

from safetensors.torch import save_file
from torch import Tensor

from common.files import sync
from common.hashing import file_hash
from models.errors import ModelError

CHECKSUMS, WEIGHTS = "checksums.json", "model.safetensors"
_STEP = re.compile(r"step-(\d{8,})")
_SUM = re.compile(r"[0-9a-f]{64}")


def checkpoint_path(run: str | Path, step: int) -> Path:
    """Return the path of a step's checkpoint."""
    return Path(run) / "checkpoints" / f"step-{step:08d}"


def partial_path(run: str | Path, step: int) -> Path:
    """Return the path of a checkpoint before `publish`; what an interrupted save left there is removed."""
    final = checkpoint_path(run, step)
    partial = final.with_name(f".{final.name}.partial")
    remove(partial)
    return partial


def remove(path: Path) -> None:
    """Delete a file or a whole folder, where there is one; what a link points to stays."""
    if path.is_symlink() or path.is_file():
        path.unlink()
    elif path.exists():
        shutil.rmtree(path)


def checkpoints(run: str | Path) -> list[int]:
    """Steps of the published checkpoints of a run, ascending.

    Raises:
        ModelError: the place of checkpoints is no folder.
    """
    folder = Path(run) / "checkpoints"
    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"{folder} must be a folder of checkpoints and is a file; move it away")
        return []
    found = [_STEP.fullmatch(entry.name) for entry in folder.iterdir()]
    return sorted({int(match[1]) for match in found if match and match[0] == f"step-{int(match[1]):08d}"})


def save_weights(state: Mapping[str, Tensor], file: Path, metadata: dict[str, str] | None = None) -> None:
    """Write a safetensors file with the rights that any new file has: safetensors itself makes it the owner's alone."""
    file.touch()
    rights = file.stat().st_mode
    save_file({name: tensor.contiguous() for name, tensor in state.items()}, file, metadata)
    file.chmod(rights)


def write_checksums(checkpoint: str | Path) -> dict[str, str]:
    """Write checksums.json: the sha256 of every other file of the folder, by relative path; returns them."""
    checkpoint = Path(checkpoint)
    sums = {name: file_hash(checkpoint / name) for name in sorted(_files(checkpoint))}
    (checkpoint / CHECKSUMS).write_text(json.dumps(sums, indent=2) + "\n", encoding="utf-8")
    return sums


def verify(checkpoint: str | Path, files: Iterable[str] | None = None) -> dict[str, str]:
    """Compare files with checksums.json; returns the checksums.

    Args:
        checkpoint: a checkpoint folder.
        files: relative paths to check; None: that the folder holds the listed files and no others, each unchanged.

    Raises:
        ModelError: checksums are missing, unreadable or without the weights; a file is missing, unlisted, unreadable
            or was changed.
    """
    checkpoint = Path(checkpoint)
    sums = _read_checksums(checkpoint)
    if files is None and (unlisted := sorted(_files(checkpoint) - sums.keys())):
        raise ModelError(f"checkpoint {checkpoint} has no checksum for {unlisted[0]}")
    for name in sums if files is None else files:
        if name not in sums:
            raise ModelError(f"checkpoint {checkpoint} has no checksum for {name}")
        if not (checkpoint / name).is_file():
            raise ModelError(f"checkpoint {checkpoint} lacks {name}")
        try:
            found = file_hash(checkpoint / name)
        except OSError as error:
            raise ModelError(f"cannot read {checkpoint / name}: {error.strerror}") from error
        if found != sums[name]:
            raise ModelError(f"checkpoint {checkpoint} is damaged: {name} does not match its checksum")
    return sums


def _files(checkpoint: Path) -> set[str]:
    """Relative paths of all files that need a checksum."""
    found = (path.relative_to(checkpoint).as_posix() for path in checkpoint.rglob("*") if not path.is_dir())
    return set(found) - {CHECKSUMS}


def _read_checksums(checkpoint: Path) -> dict[str, str]:
    try:
        sums: Any = json.loads((checkpoint / CHECKSUMS).read_text(encoding="utf-8"))
    except PermissionError as error:
        raise ModelError(f"cannot read {checkpoint / CHECKSUMS}: {error.strerror}") from error
    except (OSError, ValueError, RecursionError) as error:
        raise ModelError(f"checkpoint {checkpoint} is not complete: no readable {CHECKSUMS}") from error
    if not isinstance(sums, dict) or not all(isinstance(v, str) and _SUM.fullmatch(v) for v in sums.values()):
        raise ModelError(
            f"checkpoint {checkpoint} is damaged: {CHECKSUMS} does not list files with their sha256"
        )
    if WEIGHTS not in sums:
        raise ModelError(f"checkpoint {checkpoint} is damaged: {CHECKSUMS} has no checksum for {WEIGHTS}")
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
        sync(path)
    final.parent.mkdir(parents=True, exist_ok=True)
    os.rename(partial, final)
    sync(final.parent)


def prune(run: str | Path, keep: int, spare: Collection[int] = ()) -> list[int]:
    """Delete all but the latest `keep` checkpoints and those to spare; returns the deleted steps.

    Raises:
        ModelError: keep is below 1.
    """
    if keep < 1:
        raise ModelError(f"keep must be at least 1 checkpoint, got {keep}")
    surplus = [step for step in checkpoints(run)[:-keep] if step not in spare]
    for step in surplus:
        # Renamed first: a half-deleted folder must not pass for a checkpoint.
        doomed = partial_path(run, step)
        os.rename(checkpoint_path(run, step), doomed)
        remove(doomed)
    return surplus
