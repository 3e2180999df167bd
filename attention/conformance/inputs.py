"""Calls to try mechanisms on: their tensors, hostile ones among them, and what comes back."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from attention.core.call import CallSpec
from attention.core.errors import AttentionError
from attention.core.inputs import prepare
from attention.core.masks import visibility
from attention.core.mechanism import Mechanism
from attention.functional import attend
from attention.kernels.dispatch import KERNELS
from attention.kernels.kernel import obstacle


class RefusedError(AttentionError):
    """A kernel's reason for not serving a call."""


@dataclass
class Inputs:
    """Leaf tensors of a call and the gradient that comes back."""

    query: Tensor
    key: Tensor
    value: Tensor
    grad_out: Tensor

    def to(self, dtype: torch.dtype, device: torch.device | str | None = None) -> "Inputs":
        """The same numbers, rounded to dtype, as fresh leaves."""
        return Inputs(
            *(x.detach().to(device, dtype).requires_grad_(x is not self.grad_out) for x in self.all)
        )

    def reversed(self) -> "Inputs":
        """The same call with its head dimensions in reverse order, as fresh leaves."""
        query, key = (x.detach().flip(-1).requires_grad_() for x in (self.query, self.key))
        return Inputs(query, key, self.value, self.grad_out)

    @property
    def all(self) -> tuple[Tensor, ...]:
        """Every tensor, the gradient last."""
        return self.query, self.key, self.value, self.grad_out


def make(
    batch: int = 2,
    queries: int = 9,
    keys: int | None = None,
    heads: int = 4,
    key_heads: int = 2,
    head_dim: int = 8,
    value_dim: int | None = None,
    seed: int = 0,
    spread: float = 1.0,
) -> Inputs:
    """Gaussian inputs in float64; queries are multiplied by `spread`."""
    generator = torch.Generator().manual_seed(seed)
    keys, value_dim = keys or queries, value_dim or head_dim

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Inputs(
        draw(batch, queries, heads, head_dim).mul_(spread).requires_grad_(),
        draw(batch, keys, key_heads, head_dim).requires_grad_(),
        draw(batch, keys, key_heads, value_dim).requires_grad_(),
        draw(batch, queries, heads, value_dim),
    )


def run(
    inputs: Inputs,
    mechanism: Mechanism,
    kernel: str,
    *,
    call: Callable[..., Tensor] = attend,
    moved: float = 0.0,
    **arguments: Any,
) -> dict[str, Tensor]:
    """Output and gradients of a call, learned parameters included.

    Args:
        call: `attend`, or something that wraps it.
        moved: is added to the initial values of learned parameters.
        arguments: the masks, as for `attend`.

    Raises:
        RefusedError: the kernel does not serve this call.
    """
    wide = torch.promote_types(inputs.query.dtype, torch.float32)
    params = {
        name: value.to(inputs.query.device, wide).add(moved).requires_grad_()
        for name, value in mechanism.initial_values(*inputs.query.shape[2:]).items()
    }
    ask(inputs, mechanism, kernel, params=params, **arguments)
    out = call(inputs.query, inputs.key, inputs.value, mechanism, kernel=kernel, params=params, **arguments)
    leaves = {"query": inputs.query, "key": inputs.key, "value": inputs.value, **params}
    gradients = torch.autograd.grad(out, list(leaves.values()), inputs.grad_out.to(out.dtype))
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}


def ask(inputs: Inputs, mechanism: Mechanism, kernel: str, **arguments: Any) -> None:
    """Raise RefusedError where the kernel, or the mechanism, does not serve a call."""
    try:
        prepared = prepare(inputs.query, inputs.key, inputs.value, mechanism, CallSpec(**arguments))
    except AttentionError as error:
        raise RefusedError(str(error)) from error
    reason = obstacle(KERNELS[kernel], prepared)
    if reason:
        raise RefusedError(reason)


def takes_windows(mechanism: Mechanism) -> bool:
    """Whether a mechanism works under a window: where it does not, only the check of windows says so."""
    return mechanism.refuses(visibility(2, 2, window=1)) is None


def _gaussian(inputs: Inputs) -> None:
    """Nothing special."""


def _large(inputs: Inputs) -> None:
    inputs.query.data *= 30


def _scores_of(size: float) -> Callable[[Inputs], None]:
    def scale(inputs: Inputs) -> None:
        inputs.query.data *= size

    return scale


def _identical_keys(inputs: Inputs) -> None:
    inputs.key.data[:] = inputs.key.data[:, :1]


def _early_keys_far_below(inputs: Inputs) -> None:
    sign = inputs.query.data[:, :1, :1].sign()
    inputs.key.data[:, : inputs.key.shape[1] // 2] = -40 * sign
    inputs.query.data[:] = inputs.query.data.abs() * sign


def _mixed_magnitudes(inputs: Inputs) -> None:
    exponent = torch.linspace(-4, 1.5, inputs.query.shape[1], dtype=torch.float64)
    inputs.query.data *= 10 ** exponent[:, None, None]


def _zero_queries(inputs: Inputs) -> None:
    inputs.query.data[:, ::2] = 0


def _one_massive_channel(inputs: Inputs) -> None:
    inputs.key.data[..., 0] += 20
    inputs.query.data[..., 0] -= 3


HOSTILE: dict[str, Callable[[Inputs], None]] = {
    "gaussian": _gaussian,
    "large": _large,
    "small scores": _scores_of(1e-2),
    "tiny scores": _scores_of(1e-4),
    "vanishing scores": _scores_of(1e-6),
    "identical keys": _identical_keys,
    "early keys far below": _early_keys_far_below,
    "mixed magnitudes": _mixed_magnitudes,
    "zero queries": _zero_queries,
    "one massive channel": _one_massive_channel,
}
"""Changes of gaussian inputs, in place, that tell a careful kernel from a careless one."""


def hostile(name: str, **shape: int) -> Inputs:
    """Inputs after one of these changes."""
    inputs = make(**shape)
    HOSTILE[name](inputs)
    return inputs
