"""Speed, in turns, so that what else a machine does falls on all candidates alike."""

import math
import time
from collections.abc import Callable, Collection, Iterable, Mapping
from typing import Any

import torch

SHORTEST = 0.02
"""Seconds that a sample lasts at least; shorter candidates run several times for one."""


Shown = Callable[[Collection[Any]], Iterable[Any]]
"""Gives the items back one by one, and may show how far it has come."""


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device, shown: Shown = iter
) -> dict[str, list[float]]:
    """Seconds of each candidate, one sample of every candidate per round, after one call to warm up.

    `shown` goes through the candidates that are warmed up, and then through the rounds.
    """
    for run in shown(runs.values()):
        run()
    repeats = {name: math.ceil(SHORTEST / max(_seconds(run, 1, device), 1e-6)) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in shown(range(rounds)):
        for name, run in runs.items():
            samples[name].append(_seconds(run, repeats[name], device))
    return samples


def _seconds(run: Callable[[], object], repeats: int, device: torch.device) -> float:
    """Time one call, from several in a row; a GPU is timed by its own clock."""
    if device.type == "cuda":
        start, stop = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        torch.cuda.synchronize()
        start.record()
        for _ in range(repeats):
            run()
        stop.record()
        torch.cuda.synchronize()
        return start.elapsed_time(stop) / 1e3 / repeats
    began = time.perf_counter()
    for _ in range(repeats):
        run()
    return (time.perf_counter() - began) / repeats
