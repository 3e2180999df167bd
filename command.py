"""The guard of every command line: a user's mistake is one clear line and exit code 2, never a traceback."""

import sys
from collections.abc import Callable

from attention import AttentionError
from data import DataError
from models import ModelError


def guarded(main: Callable[[], int | None]) -> None:
    """Run `main` and exit with what it returns; mistakes print `error: ...` and exit 2, an interrupt exits 130."""
    try:
        code = main() or 0
    except (AttentionError, DataError, ModelError) as mistake:
        print(f"error: {mistake}", file=sys.stderr)
        code = 2
    except KeyboardInterrupt:
        code = 130
    sys.exit(code)
