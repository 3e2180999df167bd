"""Runs that cannot write, and go on once they can.

From a random file event on, no file may grow beyond some size (the system's limit for a process, which needs no
rights); where a file system may be mounted, runs also fill small ones. Survived: one line that names the newest
checkpoint, exit code 2, and with `--resume`, once there is room, the end that the run would have had, bit for bit.
"""

import random
import shutil
import subprocess
from collections.abc import Iterator

from storage import checkpoint_path
from tests.reliability import Trial
from tests.reliability._nursery import Fault
from tests.reliability._world import STEPS, World, last_line, one_line, world

COUNT, FEW = 32, 4


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Let a run meet the limit, resume it without, compare."""
    chance = random.Random(seed)
    with world() as here:
        whole = here.train("whole")
        assert whole.codes == [0], whole.complained
        two = here.train("whole2", "train.micro_batch_size=2", ranks=2)
        assert two.codes == [0, 0], two.complained
        sizes = [path.stat().st_size for path in checkpoint_path(here.runs / "whole", STEPS).iterdir()]
        for number in range(count):
            name = f"run{number}"
            if number % 4 == 3:
                yield _full(here, name, chance)
            else:
                ranks = 2 if number % 4 == 2 else 1
                fault = Fault(chance.randint(1, whole.events), file_size=_size(number, sizes, chance))
                yield _limited(here, name, ranks, fault)
            here.remove(name)


def _size(number: int, sizes: list[int], chance: random.Random) -> int:
    """Often just below the size of one of a checkpoint's files, so that each of them is the one that fails."""
    return chance.choice([0, chance.choice(sizes) - 1, chance.randint(0, max(sizes))])


def _limited(here: World, name: str, ranks: int, fault: Fault) -> Trial:
    options = ["train.micro_batch_size=2"] if ranks == 2 else []
    outcome = here.train(name, *options, fault=fault, ranks=ranks)
    kind = "no file grows any more" + (", two processes" if ranks == 2 else "")
    case = f"event {fault.event}, {fault.file_size} bytes"
    failure = _judge(here, name, outcome.codes[0], outcome.complained)
    failure = failure or here.resume(name, "whole2" if ranks == 2 else "whole", *options, ranks=ranks)
    return Trial(kind, case, _how(outcome.codes[0]), failure)


def _full(here: World, name: str, chance: random.Random) -> Trial:
    kind, place = "a full disk (tmpfs)", here.folder / "small"
    place.mkdir(exist_ok=True)
    size = chance.randint(20, 400)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={size}k", "none", str(place)], capture_output=True
    ).returncode
    if mounted != 0:
        fault = Fault(chance.randint(1, 100), file_size=0)
        return _limited(here, name, 1, fault)
    try:
        run = here.runs / name
        outcome = here.train(name, f"out={place}")
        failure = _judge(here, name, outcome.codes[0], outcome.complained)
        subprocess.run(["mount", "-o", "remount,size=10m", str(place)], check=True)
        if not failure:
            resumed = here.train(name, "--resume", f"out={place}")
            failure = f"--resume: {last_line(resumed.complained)}" if any(resumed.codes) else ""
        if not failure:
            shutil.copytree(place / name, run)
            failure = here.difference(name, "whole")
    finally:
        subprocess.run(["umount", str(place)], check=False)
    return Trial(kind, f"{size} kB", _how(outcome.codes[0]), failure)


def _judge(here: World, name: str, code: int, complained: str) -> str:
    if code == 0:
        return ""
    if code != 2:
        return f"exit code {code}: {last_line(complained)}"
    if failure := one_line(complained):
        return failure
    begun = (here.runs / name / "metrics.jsonl").exists()
    names_it = "whole and finite is step" in complained or "no checkpoint to go back to" in complained
    return "" if names_it or not begun else f"names no checkpoint: {last_line(complained)}"


def _how(code: int) -> str:
    return "one line, resumed bit for bit" if code else "had room enough"
