"""A trace of a few steps by torch's profiler, for chrome://tracing or Perfetto."""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch.profiler import ProfilerActivity, profile, schedule

FOLDER = "profile"
"""Where a run keeps its traces."""

BEFORE = 5
"""Steps of a sitting that are left out: they compile, allocate and fill caches."""


@contextmanager
def profiled(run: Path, steps: int, rank: int) -> Iterator[Callable[[], None]]:
    """While open, trace `steps` steps after the first few, each ended by a call of what is given.

    The trace is runs/NAME/profile/rank-0.json; of a sitting that ends before it is complete there is none.
    """
    if not steps:
        yield lambda: None
        return
    folder = run / FOLDER
    folder.mkdir(exist_ok=True)
    activities = [ProfilerActivity.CPU]
    if torch.cuda.is_available():
        activities.append(ProfilerActivity.CUDA)

    def write(done: profile) -> None:
        done.export_chrome_trace(str(folder / f"rank-{rank}.json"))

    plan = schedule(wait=BEFORE - 1, warmup=1, active=steps, repeat=1)
    with profile(activities=activities, schedule=plan, on_trace_ready=write, record_shapes=True) as trace:
        yield trace.step
