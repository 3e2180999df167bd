"""`python -m tests.search`: run the tests of random examples on new ones, round after round.

Stops at the first example that fails and prints it. Keep it: write it above its test as an explicit `@example`, so that
`make test` tries it for everybody from then on.
"""

import argparse
import secrets
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]
FAILED, NOTHING_RUN = 1, 5
"""Exit statuses of pytest."""


def main() -> int:
    """Search.

    Returns:
        The exit status: 0 where nothing was found, 1 where an example fails, 2 for a caller's mistake.
    """
    parser = argparse.ArgumentParser(prog="python -m tests.search", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="for how long (default: 10)")
    parser.add_argument("paths", nargs="*", default=["tests"], help="test files or folders (default: tests)")
    parser.add_argument("-k", metavar="EXPRESSION", default="", help="only tests that match, as for pytest")
    options = parser.parse_args()
    end = time.monotonic() + 60 * options.minutes
    rounds = 0
    while (left := end - time.monotonic()) > 0:
        seed = secrets.randbelow(2**32)
        command = [sys.executable, "-m", "pytest", "-q", "-x", "--no-header", "-p", "no:cacheprovider"]
        command += ["-m", "hypothesis", "-k", options.k]
        command += ["--hypothesis-profile=search", f"--hypothesis-seed={seed}", *options.paths]
        print(f"round {rounds + 1}: seed {seed}", flush=True)
        try:
            status = subprocess.run(command, cwd=ROOT, timeout=left).returncode
        except subprocess.TimeoutExpired:
            break
        if status:
            if status == NOTHING_RUN:
                print("no test of random examples matches", file=sys.stderr)
            return FAILED if status == FAILED else 2
        rounds += 1
    print(f"{rounds} whole rounds in {options.minutes:g} minutes: nothing fails")
    return 0


if __name__ == "__main__":
    sys.exit(main())
