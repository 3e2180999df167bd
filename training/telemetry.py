"""What is measured beside the loss: speed, utilisation, and how each layer's attention behaves."""

import time
from collections.abc import Iterator
from contextlib import contextmanager

import torch

from attention import row_stats
from models import GPT, AttentionCall, trace
from training.batches import Batch


@torch.no_grad()
def attention_statistics(model: GPT, batch: Batch) -> dict[str, float]:
    """Per layer, over the rows of one forward pass that see at least one key: the largest |score|, the mean mass
    (sum of a row's weights) and the fraction of dead rows (all weights exactly zero).

    Args:
        model: plain; call under autocast for what training computes.
        batch: tokens and documents [B, T].

    Returns:
        "max_score/layer-00", "mass/layer-00", "dead_rows/layer-00" and so on.
    """
    found: dict[str, float] = {}

    def record(call: AttentionCall) -> None:
        stats = row_stats(call.query, call.key, call.mechanism, **call.spec.options)
        rows = (stats.visible > 0)[:, None].expand_as(stats.mass)
        layer = f"layer-{call.layer:02d}"
        found[f"max_score/{layer}"] = stats.max_score[rows].max().item()
        found[f"mass/{layer}"] = stats.mass[rows].mean().item()
        found[f"dead_rows/{layer}"] = (stats.zeros == stats.visible[:, None])[rows].float().mean().item()

    with trace(model, attention=record):
        model(batch["tokens"], documents=batch["documents"])
    return found


def matmul_rate(device: torch.device, dtype: torch.dtype, seconds: float = 0.3) -> float:
    """FLOP/s of a large square matrix product here and now: what utilisation is measured against.

    A measured rate, not a data sheet's: it exists for every CPU and GPU, and it is what a step could reach at best.
    """
    size = 8192 if device.type == "cuda" else 1024
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    best = float("inf")
    until = time.perf_counter() + seconds
    while time.perf_counter() < until:
        started = time.perf_counter()
        torch.mm(a, b)
        if device.type != "cpu":
            torch.accelerator.synchronize()
        best = min(best, time.perf_counter() - started)
    return 2 * size**3 / best


class Mean:
    """The mean of what was added since it was last taken."""

    def __init__(self) -> None:
        self._sum, self._count = 0.0, 0

    def add(self, value: float) -> None:
        """Count one more value."""
        self._sum, self._count = self._sum + value, self._count + 1

    def take(self) -> float | None:
        """The mean, None of nothing; begins anew."""
        mean = self._sum / self._count if self._count else None
        self._sum, self._count = 0.0, 0
        return mean


class Throughput:
    """Tokens per second of training alone; what `paused` encloses does not count."""

    def __init__(self) -> None:
        self.tokens = 0
        self._started = time.perf_counter()

    def rate(self) -> float:
        """Tokens per second since the last call."""
        now = time.perf_counter()
        rate = self.tokens / max(now - self._started, 1e-9)
        self.tokens, self._started = 0, now
        return rate

    @contextmanager
    def paused(self) -> Iterator[None]:
        """Leave out the time spent inside."""
        began = time.perf_counter()
        yield
        self._started += time.perf_counter() - began
