"""Speed, in turns, so that what else a machine does falls on all candidates alike."""

import math
import time
from collections.abc import Callable, Mapping

import torch

SHORTEST = 0.02
"""Seconds that a sample lasts at least; shorter candidates run several times for one."""


def interleaved(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each candidate, one sample of every candidate per round, after one call to warm up."""
    for run in runs.values():
        run()
    repeats = {name: math.ceil(SHORTEST / max(_seconds(run, 1, device), 1e-6)) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in range(rounds):
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
