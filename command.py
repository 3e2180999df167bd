"""The guard of every command line: a user's mistake is one clear line and exit code 2, never a traceback."""

import os
import sys
from collections.abc import Callable

# OpenMP threads that wait for one another spin, by default so long that a second busy program on the machine makes
# training ten times slower. GNU's OpenMP reads this once, when torch loads it.
os.environ.setdefault("GOMP_SPINCOUNT", "5000")

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
