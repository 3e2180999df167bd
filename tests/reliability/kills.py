"""Runs that are killed, and resume.

Ten steps of a tiny model, a checkpoint every three, in one process and in two. The signal comes at the n-th thing that
Python does with a file of the run, spread evenly over all of them, or a random phase after a random one. Survived:
with `--resume`, weights and optimizer end bit for bit as without the signal, the log is complete, nothing half-written
is left, and no process showed a traceback.
"""

import json
import random
import re
import signal
import subprocess
import sys
from collections.abc import Iterator

from tests.reliability import Trial
from tests.reliability._nursery import ROOT, Fault, _free_port
from tests.reliability._world import World, last_line, one_line, world

COUNT, FEW = 84, 3

KILL, TERM, INT = signal.SIGKILL, signal.SIGTERM, signal.SIGINT
SHARES = {
    "SIGKILL at a file event": 32,
    "SIGKILL at a random phase": 10,
    "SIGTERM": 8,
    "Ctrl-C": 8,
    "Ctrl-C twice": 4,
    "two processes, one or both killed": 10,
    "two processes, SIGTERM or Ctrl-C": 6,
    "a second --resume beside the first": 4,
    "torchrun, SIGKILL or SIGTERM": 2,
}
"""Trials of each kind in 84, the order of their making."""

ALONE = list(SHARES)[:5]
"""The kinds that kill a training of one process."""


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Kill a run, resume it, compare."""
    chance = random.Random(seed)
    kinds = _kinds(count)
    alone = all(kind in ALONE for kind in kinds)
    with world() as here:
        events = {1: here.train("whole").events}
        events[2] = 0 if alone else here.train("whole2", "train.micro_batch_size=2", ranks=2).events
        assert events[1] > 30, "the whole runs must be whole"
        assert alone or events[2] > 30, "the whole runs must be whole"
        made: dict[str, int] = dict.fromkeys(kinds, 0)
        for number, kind in enumerate(kinds):
            place = (made[kind] + 0.5) / kinds.count(kind)
            made[kind] += 1
            name = f"run{number}"
            if kind.startswith("a second"):
                yield _beside(here, name, kind, chance)
            elif kind.startswith("torchrun"):
                yield _torchrun(here, name, kind, chance, events[2])
            else:
                ranks = 2 if kind.startswith("two") else 1
                fault = _fault(kind, place, events[ranks], chance)
                yield _killed(here, name, kind, fault, ranks)
            here.remove(name)


def _kinds(count: int) -> list[str]:
    """The kind of each trial, in their shares; the first few kinds, once each, where there are fewer trials."""
    if count < len(SHARES):
        return list(SHARES)[:count]
    numbers = {kind: max(1, round(share * count / 84)) for kind, share in SHARES.items()}
    return [kind for kind in SHARES for _ in range(numbers[kind])][:count]


def _fault(kind: str, place: float, events: int, chance: random.Random) -> Fault:
    event = max(1, round(place * events)) if kind.endswith("file event") else chance.randint(1, events)
    pause = 0.0 if kind.endswith("file event") else chance.choice([0.0, chance.uniform(0, 0.3)])
    if kind == "Ctrl-C twice":
        return Fault(event, [(pause, INT), (chance.uniform(0, 2.3), INT)])
    number = KILL if "kill" in kind.lower() else INT if kind == "Ctrl-C" else TERM
    if kind.endswith("SIGTERM or Ctrl-C"):
        number = chance.choice([TERM, INT])
    whom = chance.choice(["self", "other", "all"]) if kind.startswith("two") else "self"
    return Fault(event, [(pause, number)], whom)


def _killed(here: World, name: str, kind: str, fault: Fault, ranks: int) -> Trial:
    options = ["train.micro_batch_size=2"] if ranks == 2 else []
    outcome = here.train(name, *options, fault=fault, ranks=ranks)
    case = f"event {fault.event}, signals {[(round(p, 2), int(n)) for p, n in fault.signals]} to {fault.whom}"
    failure = _complaint(outcome.complained)
    if kind in ("SIGTERM", "Ctrl-C") and outcome.codes[0] not in (0, 130, -TERM):
        failure = failure or f"ends with {outcome.codes}: {last_line(outcome.complained)}"
    way = (
        "before its end"
        if any(outcome.codes) or "stopped after step" in outcome.said
        else "when all was done"
    )
    failure = failure or here.resume(name, f"whole{ranks}" if ranks > 1 else "whole", *options, ranks=ranks)
    return Trial(kind, case, f"{way}, bit for bit", failure)


def _complaint(complained: str) -> str:
    if "Traceback" in complained:
        return f"a traceback: {last_line(complained)}"
    return one_line(complained) if re.search("^error", complained, re.MULTILINE) else ""


def _beside(here: World, name: str, kind: str, chance: random.Random) -> Trial:
    pause = chance.uniform(0, 0.4)
    options = ["--resume", "train.steps=10"]
    outcome = here.nursery(*here.command(name, *options), beside=pause)
    case = f"{pause:.2f} s later"
    refused = [code for code in outcome.codes if code == 2]
    failure = _complaint(outcome.complained)
    if 0 not in outcome.codes or any(code not in (0, 2) for code in outcome.codes):
        failure = failure or f"they end with {outcome.codes}: {last_line(outcome.complained)}"
    if refused and "is being trained by process" not in outcome.complained:
        failure = failure or f"the second is told: {last_line(outcome.complained)}"
    told = "the second was told who holds it" if refused else "the first was done"
    return Trial(kind, case, told, failure or here.difference(name, "whole"))


OF_TORCHRUN = re.compile(r"^Traceback.*\n(?: .*\n)*torch\.distributed\.elastic", re.MULTILINE)
"""The traceback by which torchrun itself reports that a process was killed."""


def _torchrun(here: World, name: str, kind: str, chance: random.Random, events: int) -> Trial:
    fault = Fault(chance.randint(1, events), [(0.0, int(chance.choice([KILL, TERM])))])
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--nproc_per_node",
        "2",
        "--master_port",
        str(_free_port()),
    ]
    command += [
        "-m",
        "tests.reliability._nursery",
        "victim",
        *here.command(name, "train.micro_batch_size=2")[1:],
    ]
    outcome = subprocess.run(
        command,
        cwd=ROOT,
        env=here.nursery.environment
        | {"FAULT": json.dumps({"event": fault.event, "signals": fault.signals})},
        capture_output=True,
        text=True,
        timeout=300,
    )
    case = f"event {fault.event}, signal {fault.signals[0][1]}"
    ours = OF_TORCHRUN.sub("", outcome.stderr)
    failure = f"a traceback: {last_line(ours)}" if "Traceback" in ours else ""
    failure = failure or here.resume(name, "whole2", "train.micro_batch_size=2", ranks=2)
    return Trial(kind, case, "bit for bit", failure)
