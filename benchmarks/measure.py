"""Measuring: in turns, in medians, in processes of their own, and only where the formula is computed."""

import math
import statistics
import time
from collections.abc import Callable
from functools import cache

import torch
from tqdm import tqdm

from attention.conformance import failures
from attention.core.mechanism import Mechanism
from common.memory import peak_memory

SHORTEST = 0.02
"""Seconds that a sample lasts at least; shorter candidates run several times for one."""


def interleaved(
    runs: dict[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds of each candidate, one sample of every candidate per round, after one call to warm up."""
    for run in runs.values():
        run()
    repeats = {name: math.ceil(SHORTEST / max(_seconds(run, 1, device), 1e-6)) for name, run in runs.items()}
    samples: dict[str, list[float]] = {name: [] for name in runs}
    for _ in tqdm(range(rounds), leave=False, disable=None):
        for name, run in runs.items():
            samples[name].append(_seconds(run, repeats[name], device))
    return samples


def median(samples: list[float]) -> float:
    """The middle one."""
    return statistics.median(samples)


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


def peak_growth(run: Callable[[], object], device: torch.device) -> float:
    """MiB by which a call raises the memory held by this process, or by its GPU; needs a process of its own."""
    if device.type == "cuda":
        torch.cuda.synchronize()
        torch.cuda.reset_peak_memory_stats()
        held = torch.cuda.memory_allocated()
        run()
        torch.cuda.synchronize()
        return (torch.cuda.max_memory_allocated() - held) / 1024**2
    before = peak_memory()
    run()
    return max(0.0, peak_memory() - before)


@cache
def broken(mechanism: Mechanism, kernel: str, dtype: torch.dtype, device: torch.device) -> str | None:
    """The first check of the contract that a kernel fails: the speed of a wrong result is not worth printing."""
    checks = [str(dtype).removeprefix("torch."), "grouped heads", "causality"]
    return next(iter(failures(mechanism, kernel, checks=checks, device=device)), None)
