"""Random calls of `attend`, `weights`, `row_stats`, `entropy` and `get`, valid and invalid.

All mechanisms with their variants, on all kernels that run here. Survived is: outputs and gradients that agree with the
dense formula in float64, or an AttentionError of one line; a valid call may be refused only where "dense" refuses it,
too. Calls run in a process of their own, so that one that kills the interpreter is seen, and counted as a failure.
"""

import json
import subprocess
import sys
from collections.abc import Iterator

from tests.reliability import Trial

COUNT, FEW = 10_000, 120


def trials(count: int, seed: int) -> Iterator[Trial]:
    """The calls number 0 to count - 1; a process that dies is followed by another one from the next call on."""
    begun, done = 0, 0
    while done < count:
        command = [sys.executable, "-m", "tests.reliability._calls", str(done), str(count), str(seed)]
        process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        assert process.stdout is not None
        kind = case = ""
        for line in process.stdout:
            told = json.loads(line)
            if "begun" in told:
                begun, kind, case = told["begun"], told["kind"], told["case"]
            else:
                done = begun + 1
                yield Trial(kind, case, told["outcome"], told["failure"])
        _, said = process.communicate()
        if done < count:
            last = (said.strip().splitlines() or [""])[-1]
            if not kind:
                raise RuntimeError(f"the calls could not be made: {last}")
            yield Trial(kind, case, failure=f"the process ended with {process.returncode} {last}")
            done = begun + 1
