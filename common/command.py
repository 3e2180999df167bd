"""The boundary of every command line: the right answer or one clear line, never a traceback.

Exit codes: 0, done; 2, something a user can mend, said in one line that begins with `error:`; 1, a fault of this
program, in one line, too; 130, Ctrl-C; 141, nobody reads the output any more. With ATTENTION_ZOO_TRACEBACK=1 in the
environment every error shows its traceback as well.
"""

import argparse
import os
import sys
import time
import traceback
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import NoReturn

from common.errors import InputError
from common.explain import ROOT, explain, is_source, of_another_process, said

# OpenMP threads that wait for one another spin, by default so long that a second busy program on the machine makes
# training ten times slower. GNU's OpenMP reads this once, when torch loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

TRACEBACK = "ATTENTION_ZOO_TRACEBACK"
REQUIRED = ("torch", "einops", "numpy", "omegaconf", "safetensors", "sentencepiece", "accelerate", "filelock")
"""Packages that every command of the study needs, to do more than to help."""

LONGEST = 600
"""Characters of an error message; the middle of a longer one is left out."""

GRACE = 3.0
"""Seconds that a launcher needs to end all processes once one has failed."""


class UsageError(InputError):
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
        if not {"-h", "--help"} & set(sys.argv[1:]):
            _require_packages()
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
        if rank or of_another_process(error):
            time.sleep(GRACE)
        if os.environ.get(TRACEBACK):
            traceback.print_exception(error)
        where = f" (process {rank})" if rank else ""
        print(f"error{where}: {one_line(explained or _unexpected(error))}", file=sys.stderr)
    sys.exit(code)


def _require_packages() -> None:
    if missing := [package for package in REQUIRED if find_spec(package) is None]:
        raise UsageError(
            f"{', '.join(missing)} not installed for {sys.executable}; in {ROOT} run `make install`, then "
            "`. .venv/bin/activate` (or, in an environment of your own, `pip install -e '.[eval,data]'`)"
        )


def one_line(message: str) -> str:
    """A message without line breaks and control characters, cut in its middle where it is very long."""
    plain = " ".join(message.split())
    plain = "".join(sign if sign.isprintable() else f"\\x{ord(sign):02x}" for sign in plain)
    half = LONGEST // 2
    return plain if len(plain) <= LONGEST else f"{plain[:half]} ... {plain[-half:]}"


def _unexpected(error: BaseException) -> str:
    frames = traceback.extract_tb(error.__traceback__)
    ours = [frame for frame in frames if is_source(frame.filename)] or frames
    place = f" at {Path(ours[-1].filename).name}:{ours[-1].lineno}" if ours else ""
    return f"unexpected {type(error).__name__}{place}: {said(error)}; {TRACEBACK}=1 shows the whole traceback"
