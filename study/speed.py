"""Speed of the variants: training steps in turns, in one process, on the machine that asks.

In each round every variant takes a step of its config on random tokens, so that what else the machine does falls on all
alike; a log of training says nothing of the kind. The number is the median of tokens per second, the difference the
median over rounds of 100 (t_baseline / t_variant − 1), with the interval that order statistics give a median, whatever
the distribution. It speaks of this machine, and of what it was doing.
"""

import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

import torch

from attention.timing import interleaved
from common.errors import InputError
from common.files import write_json
from common.reading import read_json
from eval.codec import decode, encode
from eval.display import whole
from eval.intervals import CONFIDENCE, Interval
from eval.noise import Noise
from eval.report.numbers import Number
from eval.report.pairs import Group, Paired
from storage import load_run
from storage.machine import default_device, machine, words
from study.definition import Study
from study.tasks import Task, config, states
from training.config import resolve_precision
from training.losses.objective import Objective
from training.timing import training_step

MEANING = (
    "Training steps of all variants in turns on one machine; differences in percent of the baseline's speed."
)

BUSY = 1.5
"""Load per core from which on a machine is said to be busy."""


@dataclass(frozen=True)
class Speeds:
    """The content of speed.json.

    Attributes:
        tokens: of a step, by variant.
        seconds: of each round's step, by variant.
        machine: that measured.
        load: tasks that wanted a core, on average over the minute before, per core; None where that is not known.
        measured: when, as local time.
    """

    tokens: dict[str, int]
    seconds: dict[str, list[float]]
    machine: dict[str, str]
    load: float | None
    measured: str


def measure(study: Study, rounds: int) -> Path:
    """Measure the variants that have been trained, and write speed.json; returns its path.

    Raises:
        InputError: too few rounds for an interval, or the baseline or all others have not been trained.
    """
    if rounds < 6:
        raise InputError(f"--rounds must be at least 6, which an interval of a median needs, got {rounds}")
    trained = {
        task.variant: task for task, state in states(study).items() if task.value is None and state == "done"
    }
    if study.file.baseline not in trained or len(trained) < 2:
        raise InputError(f"{study.file.baseline} and another variant must be trained before speeds compare")
    load = os.getloadavg()[0] / (os.cpu_count() or 1) if hasattr(os, "getloadavg") else None
    device = default_device()
    steps, tokens = {}, {}
    for variant, task in trained.items():
        steps[variant], tokens[variant] = _step(study, task, device)
    seconds = interleaved(steps, rounds, device)
    found = Speeds(tokens, seconds, machine(), load, time.strftime("%Y-%m-%d %H:%M:%S"))
    write_json(path_of(study), encode(found))
    return path_of(study)


def path_of(study: Study) -> Path:
    """The file of a study's speeds."""
    return study.folder / "speed.json"


def read(study: Study) -> Speeds | None:
    """The speeds of a study; None where none were measured.

    Raises:
        InputError: the file is damaged, or is not what `measure` wrote.
    """
    path = path_of(study)
    if not path.is_file():
        return None
    found = decode(Speeds, read_json(path, dict), str(path))
    rounds = {len(some) for some in found.seconds.values()}
    whole_rounds = len(rounds) == 1 and rounds != {0} and found.seconds.keys() <= found.tokens.keys()
    if not whole_rounds or not all(spent > 0 for some in found.seconds.values() for spent in some):
        raise InputError(f"{path} is not what `python -m study speed` wrote; delete it and measure again")
    return found


def number(found: Speeds, groups: Sequence[Group]) -> Number:
    """The speed of all variants, held against the first, the baseline."""
    base = groups[0].name
    rates = {
        group.name: [found.tokens[group.name] / spent for spent in found.seconds[group.name]]
        for group in groups
        if group.name in found.seconds
    }
    pairs = {name: _paired(name, base, some, rates[base]) for name, some in rates.items() if name != base}
    return Number(
        key="speed",
        title="speed",
        unit="tokens/s, difference in %",
        group="Speed",
        meaning=MEANING,
        headline=True,
        better="higher",
        baseline=base,
        values={group.name: dict(enumerate(rates.get(group.name, []))) for group in groups},
        means={name: _median(some) for name, some in rates.items()},
        pairs=pairs,
        noise=Noise(0, None, None),
        odd=[],
        show=whole,
        signed=_percent,
    )


def slowdown(found: Speeds, variant: str, base: str) -> float:
    """How many times as long a step of a variant takes as one of another: the median over rounds."""
    return median(
        mine / theirs for mine, theirs in zip(found.seconds[variant], found.seconds[base], strict=True)
    )


def condition(found: Speeds) -> str:
    """The sentence on how speeds were measured."""
    rounds = len(next(iter(found.seconds.values())))
    busy = (
        f"; the machine was busy (load {found.load:.1f} per core), so measure again on a quiet one"
        if found.load is not None and found.load > BUSY
        else ""
    )
    return (
        f"Speed: {rounds} steps of each variant in turns on {found.measured} ({words(found.machine)}){busy}."
    )


def _step(study: Study, task: Task, device: torch.device) -> tuple[Callable[[], object], int]:
    """A training step of a variant to repeat, and its tokens."""
    train = config(study, task).train
    train = replace(train, precision=resolve_precision(train.precision, device))
    network = load_run(study.folder / task.name, device=device, dtype=torch.float32).model.train()
    step = training_step(
        Objective(network, train), network.plan.vocab_size, train, device, compiled=train.compile is True
    )
    return step, train.batch_size * train.length


def _paired(name: str, base: str, mine: Sequence[float], theirs: Sequence[float]) -> Paired:
    differences = [100 * (rate / other - 1) for rate, other in zip(mine, theirs, strict=True)]
    found = _median(differences)
    better = found.sign > 0 if found.sign else None
    return Paired(name, base, [], differences, "rounds", len(differences), found, better)


def _median(values: Sequence[float]) -> Interval:
    """The median and its interval: from the k-th value to the k-th last, k the 2.5 % quantile of Binomial(n, 1/2)."""
    from scipy import stats

    ordered = sorted(values)
    rank = int(stats.binom.ppf((1 - CONFIDENCE) / 2, len(ordered), 0.5))
    middle = (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2
    if rank < 1:
        return Interval(middle, None, None)
    return Interval(middle, ordered[rank - 1], ordered[-rank])


def _percent(difference: float) -> str:
    return f"{'−' if difference < 0 else '+'}{abs(difference):.1f} %"
