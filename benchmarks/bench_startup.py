"""`python -m benchmarks.bench_startup`: the processor time that commands take before they do anything.

Every command is run several times, in turns, so that what else the machine does falls on all of them
alike. The figures are medians of user and system time, on one thread, and their ratios to `import torch`.
"""

import argparse
import os
import resource
import statistics
import subprocess
import sys

COMMANDS = {
    "import torch": ["-c", "import torch"],
    "import attention": ["-c", "import attention"],
    "python -m eval --help": ["-m", "eval", "--help"],
    "train.py --help": ["train.py", "--help"],
}
LIMITS = {"import attention": 1.3, "python -m eval --help": 1.6}
"""Largest ratio to `import torch` that the project allows itself."""


def main() -> None:
    """Print a Markdown table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.bench_startup", description=__doc__)
    parser.add_argument("--rounds", type=int, default=5, help="runs of each command (default: 5)")
    rounds = parser.parse_args().rounds
    times: dict[str, list[float]] = {name: [] for name in COMMANDS}
    for _ in range(rounds):
        for name, arguments in COMMANDS.items():
            times[name].append(processor_time(arguments))
    medians = {name: statistics.median(found) for name, found in times.items()}
    print("| command | processor time, s | ratio to import torch | at most |\n| --- | --- | --- | --- |")
    for name, median in medians.items():
        ratio = median / medians["import torch"]
        print(f"| `{name}` | {median:.2f} | {ratio:.2f} | {LIMITS.get(name, '')} |")


def processor_time(arguments: list[str]) -> float:
    """User and system time in seconds of a Python process and its children."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    subprocess.run(
        [sys.executable, *arguments],
        check=True,
        stdout=subprocess.DEVNULL,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    return after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime


if __name__ == "__main__":
    main()
