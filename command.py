"""The boundary of every command line: the right answer or one clear line, never a traceback.

Exit codes: 0, done; 2, something a user can mend, said in one line that begins with `error:`; 1, a fault of this
program, in one line, too; 130, Ctrl-C; 141, nobody reads the output any more. With ATTENTION_ZOO_TRACEBACK=1 in the
environment every error shows its traceback as well.
"""

import argparse
import errno
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

# OpenMP threads that wait for one another spin, by default so long that a second busy program on the machine makes
# training ten times slower. GNU's OpenMP reads this once, when torch loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

TRACEBACK = "ATTENTION_ZOO_TRACEBACK"
ROOT = Path(__file__).parent
REQUIRED = ("torch", "einops", "numpy", "omegaconf", "safetensors", "sentencepiece", "accelerate", "filelock")

if missing := [package for package in REQUIRED if find_spec(package) is None]:
    print(
        f"error: {', '.join(missing)} not installed for {sys.executable}; in {ROOT} run `make install`, then "
        "`. .venv/bin/activate` (or, in an environment of your own, `pip install -e '.[eval,data]'`)",
        file=sys.stderr,
    )
    sys.exit(2)

LONGEST = 600
"""Characters of an error message; the middle of a longer one is left out."""

GRACE = 3.0
"""Seconds that a launcher needs to end all processes once one has failed."""

REMEDIES = {
    errno.ENOSPC: "make room there, or choose another place",
    errno.EDQUOT: "make room there, or choose another place",
    errno.EACCES: "check its owner and its permissions",
    errno.EPERM: "check its owner and its permissions",
    errno.EROFS: "choose a place that can be written",
    errno.ENAMETOOLONG: "choose a shorter name",
    errno.EMFILE: "raise the limit of open files (ulimit -n)",
}
"""What to do about an error of the operating system."""

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


class UsageError(ValueError):
    """A command line that cannot be read."""


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line, like every other error of the project."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as a UsageError."""
        raise UsageError(f"{message} (see {self.prog} --help)")


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with what it returns; whatever it raises becomes one line and an exit code.

    Of several processes that meet an error only the first speaks, as long as the launcher ends the others.
    """
    try:
        code = main() or 0
        sys.stdout.flush()
    except KeyboardInterrupt:
        code = 130
    except BrokenPipeError:
        # What is left in the buffer has no reader; flushing it at exit would complain once more.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        code = 141
    except Exception as error:
        explained = explain(error)
        code = 1 if explained is None else 2
        rank = int(os.environ.get("RANK", 0))
        if rank or _of_another_process(error):
            time.sleep(GRACE)
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        where = f" (process {rank})" if rank else ""
        print(f"error{where}: {one_line(explained or _unexpected(error))}", file=sys.stderr)
    sys.exit(code)


def explain(error: BaseException) -> str | None:
    """What a user can do about an error; None where it is a fault of this program."""
    from attention import AttentionError
    from data import DataError
    from models import ModelError

    if isinstance(error, AttentionError | DataError | ModelError | UsageError):
        return str(error)
    if _of_another_process(error):
        return f"another process of this run has ended; its message says why ({_said(error)})"
    if isinstance(error, MemoryError) or (
        isinstance(error, RuntimeError) and OUT_OF_MEMORY.search(str(error))
    ):
        return (
            f"out of memory ({_said(error)}); take fewer tokens at once (train.micro_batch_size, --batch-tokens) or a "
            "smaller model"
        )
    if isinstance(error, ModuleNotFoundError) and not _ours(error.name):
        return f"the package {error.name} is not installed: pip install -e '.[eval,data]'"
    if isinstance(error, RuntimeError) and "inline_container" in str(error):
        return f"torch cannot write a file ({_said(error)}); is the disk full?"
    if isinstance(error, OSError) and error.strerror:
        remedy = REMEDIES.get(error.errno or 0)
        place = f"{error.filename}: " if error.filename is not None else ""
        return f"{place}{error.strerror}{f'; {remedy}' if remedy else ''}"
    if isinstance(error, UnicodeDecodeError):
        return f"a file is not UTF-8 text ({error.reason} at byte {error.start})"
    if what := READERS.get(type(error).__module__.partition(".")[0]):
        return f"cannot read {what}: {_said(error)}"
    return None


def one_line(message: str) -> str:
    """A message without line breaks and control characters, cut in its middle where it is very long."""
    plain = " ".join(message.split())
    plain = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in plain)
    half = LONGEST // 2
    return plain if len(plain) <= LONGEST else f"{plain[:half]} ... {plain[-half:]}"


def _unexpected(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if _is_source(Path(frame.filename))] or frames
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return (
        f"unexpected {type(error).__name__}{place}: {_said(error)}; {TRACEBACK}=1 shows the whole traceback"
    )


def _said(error: BaseException) -> str:
    return next(iter(str(error).strip().splitlines()), type(error).__name__)


def _of_another_process(error: BaseException) -> bool:
    """Whether a collective failed, as it does in all processes when one of them has ended."""
    distributed = type(error).__name__ in ("DistBackendError", "DistNetworkError", "DistStoreError")
    return distributed or (isinstance(error, RuntimeError) and bool(COLLECTIVE.search(str(error))))


def _is_source(file: Path) -> bool:
    return file.is_relative_to(ROOT) and not file.relative_to(ROOT).parts[0].startswith(".")


def _ours(module: str | None) -> bool:
    return module is None or (ROOT / module.partition(".")[0]).is_dir()
