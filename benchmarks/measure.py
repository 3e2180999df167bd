"""Measuring: in turns, in medians, in processes of their own, and only where the formula is computed."""

import statistics
from collections.abc import Callable, Mapping
from functools import cache, partial

import torch

from attention.conformance import failures
from attention.core.arguments import dtype_name
from attention.core.mechanism import Mechanism
from attention.timing import interleaved
from common.memory import peak_memory
from eval.terminal import progress


def in_turns(
    runs: Mapping[str, Callable[[], object]], rounds: int, device: torch.device
) -> dict[str, list[float]]:
    """Seconds as `attention.timing.interleaved` gives them, with a progress bar on a terminal."""
    return interleaved(runs, rounds, device, partial(progress, what=f"{len(runs)} candidates in turns"))


def median(samples: list[float]) -> float:
    """The middle one."""
    return statistics.median(samples)


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
    checks = [dtype_name(dtype), "grouped heads", "causality"]
    return next(iter(failures(mechanism, kernel, checks=checks, device=device)), None)
