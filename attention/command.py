"""The boundary of this package's commands: the right answer or one line that begins with `error:`, and exit code 2.

With ATTENTION_ZOO_TRACEBACK=1 in the environment every error shows its traceback as well.
"""

import argparse
import os
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from attention.core.errors import AttentionError


class Parser(argparse.ArgumentParser):
    """An argument parser whose complaints are one line."""

    def error(self, message: str) -> NoReturn:
        """Raise what argparse found as an AttentionError."""
        raise AttentionError(f"{message} (see {self.prog} --help)")


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with what it returns; a caller's mistake and the system's refusal become one line.

    Exit codes: 0, done; 2, something a user can mend; 130, Ctrl-C; 141, nobody reads the output any more.
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
    except AttentionError as error:
        code = _refused(error, str(error))
    except OSError as error:
        code = _refused(error, f"{error.filename}: {error.strerror}" if error.filename else str(error))
    sys.exit(code)


def _refused(error: Exception, message: str) -> int:
    if os.environ.get("ATTENTION_ZOO_TRACEBACK"):
        traceback.print_exception(error)
    print(f"error: {' '.join(message.split())}", file=sys.stderr)
    return 2
