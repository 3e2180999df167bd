"""`python -m tests.reliability`: make faults, count what was survived, write the table."""

import argparse
import sys
import time
from collections.abc import Iterator
from pathlib import Path

from storage.machine import machine
from tests.reliability import page
from tests.reliability.trial import Trial


def main() -> int:
    """Make the tables that were asked for.

    Returns:
        The exit status: 0, 1 where something was not survived.
    """
    known = page.tables()
    parser = argparse.ArgumentParser(prog="python -m tests.reliability", description=__doc__)
    parser.add_argument("table", nargs="*", help=f"one or more of: {', '.join(known)}; all by default")
    parser.add_argument("--count", type=int, help="how many trials (default: as many as the page has)")
    parser.add_argument("--seed", type=int, default=0, help="of the random choices (default: 0)")
    parser.add_argument("--write", type=Path, metavar="FILE", help="write the tables into this page")
    options = parser.parse_args()
    if unknown := [name for name in options.table if name not in known]:
        parser.error(f"unknown table {unknown[0]!r}; there are: {', '.join(known)}")
    failed = False
    for name in options.table or known:
        count = page.table(name).COUNT if options.count is None else options.count
        started = time.monotonic()
        trials = list(_shown(page.table(name).trials(count, options.seed)))
        minutes = (time.monotonic() - started) / 60
        command = f"python -m tests.reliability {name} --count {count} --seed {options.seed}"
        text = page.section(name, trials, command, f"{minutes:.1f} minutes on {_machine()}")
        print(text)
        failed |= any(trial.failure for trial in trials)
        if options.write is not None:
            page.write(options.write, name, text)
    return int(failed)


def _shown(trials: Iterator[Trial]) -> Iterator[Trial]:
    """Print failures as they come."""
    for trial in trials:
        if trial.failure:
            print(f"FAILED  {trial.kind}; {trial.case}: {trial.failure}", file=sys.stderr, flush=True)
        yield trial


def _machine() -> str:
    found = machine()
    return f"{found['cores']} cores of {found['processor']}, commit {found['commit']}"


if __name__ == "__main__":
    sys.exit(main())
