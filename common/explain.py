"""Errors in a user's words: what to do about it, or that it is a fault of this program."""

import errno
import re
from pathlib import Path

ROOT = Path(__file__).parents[1]
"""The folder of the project's packages."""

REMEDIES = {
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.EFBIG: "raise the limit of a file's size (ulimit -f)",
    errno.EACCES: "check its owner and its permissions",
    errno.EPERM: "check its owner and its permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""Advice about an error of the operating system."""

READERS = {
    "safetensors": "a safetensors file",
    "safetensors_rust": "a safetensors file",
    "pyarrow": "a parquet file",
    "yaml": "a YAML file",
    "omegaconf": "a config",
    "pickle": "a pickle",
    "_pickle": "a pickle",
    "zipfile": "an archive",
    "zlib": "an archive",
    "lzma": "an archive",
    "json": "a JSON file",
    "datasets": "a dataset",
    "huggingface_hub": "a file of the Hugging Face hub",
}
"""Libraries whose errors speak of a file that somebody brought, and what they read."""

OUT_OF_MEMORY = re.compile(r"out of memory|can't allocate memory|not enough memory|bad_alloc", re.IGNORECASE)
COLLECTIVE = re.compile(r"gloo|nccl|ProcessGroup|Connection (closed|reset) by peer", re.IGNORECASE)


def explain(error: BaseException) -> str | None:
    """Say what a user can do about an error; None where it is a fault of this program."""
    if getattr(error, "mendable", False):
        return str(error)
    if of_another_process(error):
        return f"another process of this run has ended; its message says why ({said(error)})"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    ):
        return (
            f"out of memory ({said(error)}); take fewer tokens at once (train.micro_batch_size, --batch-tokens) or a "
            "smaller model"
        )
    if isinstance(error, ModuleNotFoundError) and not _ours(error.name):
        return f"the package {error.name} is not installed: pip install -e '.[eval,data]'"
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return f"torch cannot write a file ({said(error)}); is the disk full?"
    if isinstance(error, OSError) and error.strerror:
        remedy = REMEDIES.get(error.errno or 0)
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}{f'; {remedy}' if remedy else ''}"
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text ({error.reason} at byte {error.start})"
    if what := READERS.get(type(error).__module__.partition(".")[0]):
        return f"cannot read {what}: {said(error)}"
    return None


def is_source(file: str) -> bool:
    """Whether a file is of this project's code, and not of the packages that lie in a folder of it."""
    path = Path(file)
    return path.is_relative_to(ROOT) and not path.relative_to(ROOT).parts[0].startswith(".")


def said(error: BaseException) -> str:
    """The first line of an error, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def of_another_process(error: BaseException) -> bool:
    """Whether a collective failed, as it does in all processes when one of them has ended."""
    distributed = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return distributed or (isinstance(error, RuntimeError) and bool(COLLECTIVE.search(str(error))))


def _ours(module: str | None) -> bool:
    return module is None or (ROOT / module.partition(".")[0]).is_dir()
