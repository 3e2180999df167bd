"""Speed: training steps in turns, so that what else a machine does falls on all of them alike."""

import math
import time
from collections.abc import Callable, Mapping

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm
from tqdm import tqdm

from training.config import TrainConfig
from training.losses import Loss
from training.optimizers import build_optimizer

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
    for _ in tqdm(range(rounds), leave=False, disable=None):
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


def training_step(
    module: nn.Module, vocabulary: int, train: TrainConfig, device: torch.device, compiled: bool
) -> Callable[[], Tensor]:
    """A model with its optimiser and one batch, as a step to repeat; it returns the loss."""
    module.to(device)
    model = torch.compile(module) if compiled else module
    optimizer = build_optimizer(module, train)
    shape = (train.batch_size, train.length + 1)
    text = torch.randint(vocabulary, shape, device=device)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16")
    clip = train.clip or float("inf")

    def step() -> Tensor:
        with autocast:
            loss = model(tokens, targets)
            total = (loss.total if isinstance(loss, Loss) else loss) / targets.numel()
        total.backward()
        norm = get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        clip_grads_with_norm_(module.parameters(), clip, norm)
        optimizer.step()
        optimizer.zero_grad()
        return total.detach()

    return step
