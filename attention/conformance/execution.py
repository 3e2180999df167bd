"""Running: nothing overflows, twice is the same, memory's past does not matter, one compiled graph."""

import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor

from attention.conformance.inputs import Inputs, RefusedError, make, run, takes_windows
from attention.conformance.verdict import ConformanceError, compare, dtypes, equal, judged
from attention.core.call import Phase
from attention.core.mechanism import Mechanism
from attention.functional import attend

EXTREMES = (-1000.0, -300.0, -100.0, -1e-6, 0.0, 80.0, 88.0, 1000.0)


def extreme_scores(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Scores far beyond what e^s can hold, alone and side by side, in every dtype that the kernel takes."""
    rows = [(score,) * len(EXTREMES) for score in EXTREMES] + [EXTREMES, EXTREMES[::-1]]
    key = torch.zeros(len(rows), len(EXTREMES), 1, 16)
    key[..., 0, 0] = torch.tensor(rows)
    query = torch.zeros(len(rows), len(EXTREMES), 2, 16)
    query[..., 0] = 4
    inputs = Inputs(query, key, torch.ones_like(key), torch.ones_like(query))
    for dtype in dtypes(mechanism, kernel, device):
        rounded = inputs.to(dtype, device)
        for causal in (True, False):
            truth = run(rounded.to(torch.float64), mechanism, "dense", causal=causal)
            eager = run(rounded, mechanism, "dense", causal=causal)
            for name, tensor in run(rounded, mechanism, kernel, causal=causal).items():
                place = f"extreme scores, {dtype}, {name}"
                if not torch.isfinite(tensor[judged(truth[name], eager[name], dtype, place)]).all():
                    raise ConformanceError(f"{place}: not finite")


def in_training(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """The moments of a training, with the noise and the schedules of their own."""
    for dtype in dtypes(mechanism, kernel, device):
        inputs = make(batch=3, queries=75, heads=4, key_heads=2, head_dim=16).to(dtype, device)
        for progress, seed in ((0.0, 5), (0.4, 2**62 + 2**33 + 1)):
            drawn_by = torch.tensor(seed, device=device)
            phase = Phase(training=True, progress=progress, seed=drawn_by, first_sequence=seed % 7)
            for window in (None, 9):
                name = f"progress {progress}, window {window}, {dtype}"
                compare(inputs, mechanism, kernel, dtype, name, floor=1.0, phase=phase, window=window)


def determinism(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """The same call twice gives the same outputs and gradients, bit for bit."""
    for dtype in dtypes(mechanism, kernel, device):
        inputs = make(batch=2, queries=150, heads=4, key_heads=2, head_dim=16).to(dtype, device)
        equal(run(inputs, mechanism, kernel), run(inputs, mechanism, kernel), f"twice, {dtype}")


def poisoned_memory(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """NaN in all memory that is newly allocated, and in what was freed before, reaches nothing."""
    dtype = dtypes(mechanism, kernel, device)[0]
    inputs = make(batch=2, queries=75, heads=4, key_heads=2, head_dim=24).to(dtype, device)
    ids = torch.tensor([[-1] * 9 + [0] * 60 + [1] * 6, [2] * 30 + [3] * 25 + [-1] * 20], device=device)
    with _poison(device):
        compare(inputs, mechanism, kernel, dtype, "poisoned memory", documents=ids)
        if takes_windows(mechanism):
            compare(inputs, mechanism, kernel, dtype, "poisoned memory, window 20", window=20)


@contextmanager
def _poison(device: torch.device | str) -> Iterator[None]:
    """Fill new tensors with NaN, as PyTorch does where it may use deterministic algorithms only."""
    before = torch.are_deterministic_algorithms_enabled()
    before_warn = torch.is_deterministic_algorithms_warn_only_enabled()
    settings: Any = torch.utils.deterministic
    before_fill = settings.fill_uninitialized_memory
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            torch.use_deterministic_algorithms(True, warn_only=True)
            settings.fill_uninitialized_memory = True
            freed = [torch.full((4 << power,), torch.nan, device=device) for power in range(18)]
            del freed
            yield
        finally:
            torch.use_deterministic_algorithms(before, warn_only=before_warn)
            settings.fill_uninitialized_memory = before_fill


def compiled(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """One graph, forward and backward, under torch.compile."""
    dtype = dtypes(mechanism, kernel, device)[0]
    inputs = make(batch=1, queries=21, heads=2, key_heads=1, head_dim=16).to(dtype, device)

    def through(fullgraph: bool) -> None:
        torch._dynamo.reset()

        @torch.compile(backend="aot_eager", fullgraph=fullgraph)
        def call(query: Tensor, key: Tensor, value: Tensor, params: dict[str, Tensor]) -> Tensor:
            return attend(query, key, value, mechanism, kernel=kernel, params=params)

        compare(
            inputs,
            mechanism,
            kernel,
            dtype,
            "compiled",
            call=lambda query, key, value, mechanism, kernel, params: call(query, key, value, params),
        )

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            through(fullgraph=True)
        except torch._dynamo.exc.Unsupported:
            through(fullgraph=False)
            raise RefusedError("graph break; the graphs around it compile") from None
        finally:
            torch._dynamo.reset()
