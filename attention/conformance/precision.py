"""Checks of precision: at most twice the error of the formula in the same precision, on inputs that invite more."""

from functools import cache, lru_cache
from pathlib import Path

import torch
from torch import Tensor

from attention.conformance.inputs import HOSTILE, Inputs, RefusedError, hostile, make, run
from attention.conformance.verdict import dtypes, each, judge, mixings
from attention.core.inputs import example
from attention.core.mechanism import Mechanism
from attention.kernels.dispatch import KERNELS
from attention.kernels.kernel import obstacle
from attention.kernels.trial import SLACK

ACTIVATIONS = Path(__file__).parent / "activations.pt"
LONG = "long"
CANCELLING = "identical keys"
SEEDS, LEARNED_SEEDS = 4, 16
"""Inputs per case; more where something is learned: its gradient is one number a head, too few to judge rounding by."""


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
    reason = obstacle(KERNELS[kernel], example(mechanism, dtype=dtype, device=device))
    if reason:
        raise RefusedError(reason)

    def attempt(name: str) -> None:
        problems, truth, eager = _expected(mechanism, name, dtype, str(device))
        result = _stack([run(inputs, mechanism, kernel) for inputs in problems])
        floor = 1.0 if name == CANCELLING else 0.0
        judge(result, truth, eager, f"{name} inputs", SLACK[dtype], floor, mixings(mechanism))

    each([*HOSTILE, LONG], attempt)


@lru_cache(maxsize=64)
def _expected(
    mechanism: Mechanism, name: str, dtype: torch.dtype, device: str
) -> tuple[list[Inputs], dict[str, Tensor], dict[str, Tensor]]:
    """Inputs of a few seeds, their truth, and what the formula makes of them; kept for the other kernels.

    "long" is a length at which sums that are rounded block by block show in a half type.
    """
    heads = {"batch": 1, "heads": 2, "key_heads": 1}
    if name == LONG:
        drawn = [make(queries=600, head_dim=8, **heads)]
    else:
        drawn = [hostile(name, queries=67, head_dim=16, seed=seed, **heads) for seed in _seeds(mechanism)]
    return _with_expected([inputs.to(dtype, device) for inputs in drawn], mechanism)


def _seeds(mechanism: Mechanism) -> range:
    return range(LEARNED_SEEDS if mechanism.initial_values(2, 16) else SEEDS)


def _with_expected(
    problems: list[Inputs], mechanism: Mechanism
) -> tuple[list[Inputs], dict[str, Tensor], dict[str, Tensor]]:
    truth = _stack([run(inputs.to(torch.float64), mechanism, "dense") for inputs in problems])
    return problems, truth, _stack([run(inputs, mechanism, "dense") for inputs in problems])


def _stack(results: list[dict[str, Tensor]]) -> dict[str, Tensor]:
    return {name: torch.stack([result[name] for result in results]) for name in results[0]}


def trained_activations(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Queries, keys and values of several layers of a trained model, in float32 and below."""
    for dtype in dtypes(mechanism, kernel, device):
        if dtype == torch.float64:
            continue
        for layer in _layers():
            problems, truth, eager = _trained(mechanism, layer, dtype, str(device))
            result = _stack([run(inputs, mechanism, kernel) for inputs in problems])
            judge(result, truth, eager, f"{layer}, {dtype}", SLACK[dtype], mixings=mixings(mechanism))


@lru_cache(maxsize=64)
def _trained(
    mechanism: Mechanism, layer: str, dtype: torch.dtype, device: str
) -> tuple[list[Inputs], dict[str, Tensor], dict[str, Tensor]]:
    query, key, value = (x.double() for x in _layers()[layer])
    problems = []
    for seed in _seeds(mechanism):
        generator = torch.Generator().manual_seed(seed)
        grad_out = torch.randn(query.shape, generator=generator, dtype=torch.float64)
        problems.append(Inputs(query, key, value, grad_out).to(dtype, device))
    return _with_expected(problems, mechanism)


@cache
def _layers() -> dict[str, tuple[Tensor, Tensor, Tensor]]:
    """Read the inputs that the layers of a trained model gave to their attention."""
    return torch.load(ACTIVATIONS, weights_only=True)
