"""How exact: at most twice the error of the formula in the same precision, on inputs that invite more."""

from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from attention.conformance.inputs import HOSTILE, Inputs, hostile, make, run
from attention.conformance.verdict import dtypes, each, judge
from attention.mechanism import Mechanism

ACTIVATIONS = Path(__file__).parent / "activations.pt"
LONG = "long"


def float64(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Hostile inputs in float64."""
    _precise(mechanism, kernel, torch.float64, device)


def float32(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Hostile inputs in float32."""
    _precise(mechanism, kernel, torch.float32, device)


def bfloat16(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Hostile inputs in bfloat16."""
    _precise(mechanism, kernel, torch.bfloat16, device)


def float16(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Hostile inputs in float16."""
    _precise(mechanism, kernel, torch.float16, device)


def _precise(mechanism: Mechanism, kernel: str, dtype: torch.dtype, device: torch.device | str) -> None:
    def attempt(name: str) -> None:
        inputs, truth, eager = _expected(mechanism, name, dtype, str(device))
        slack = 1e-10 if dtype == torch.float64 else 0.0
        judge(run(inputs, mechanism, kernel), truth, eager, f"{name} inputs", slack, floor=1.0)

    each([*HOSTILE, LONG], attempt)


@lru_cache(maxsize=64)
def _expected(
    mechanism: Mechanism, name: str, dtype: torch.dtype, device: str
) -> tuple[Inputs, dict[str, Tensor], dict[str, Tensor]]:
    """Inputs with their truth and what the formula makes of them, kept for the other kernels.

    Four sequences stand for as many seeds; "long" is a length at which sums over blocks in a half type show.
    """
    heads = {"heads": 2, "key_heads": 1}
    if name == LONG:
        inputs = make(batch=1, queries=600, head_dim=8, **heads)
    else:
        inputs = hostile(name, batch=4, queries=67, head_dim=16, **heads)
    inputs = inputs.to(dtype, device)
    return inputs, run(inputs.to(torch.float64), mechanism, "dense"), run(inputs, mechanism, "dense")


def trained_activations(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Queries, keys and values of several layers of a trained model, in float32 and below."""
    for dtype in dtypes(mechanism, kernel, device):
        if dtype != torch.float64:
            for layer, inputs in activations().items():
                rounded = inputs.to(dtype, device)
                truth = run(rounded.to(torch.float64), mechanism, "dense")
                eager = run(rounded, mechanism, "dense")
                judge(run(rounded, mechanism, kernel), truth, eager, f"{layer}, {dtype}")


@cache
def activations() -> dict[str, Inputs]:
    """What the layers of a trained model gave to their attention, by layer, in float64."""
    layers = torch.load(ACTIVATIONS, weights_only=True)
    generator = torch.Generator().manual_seed(0)
    return {
        name: Inputs(
            *(x.double().requires_grad_() for x in tensors),
            torch.randn(tensors[0].shape, generator=generator, dtype=torch.float64),
        )
        for name, tensors in layers.items()
    }
