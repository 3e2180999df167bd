"""Problems that every mechanism and kernel is tried on."""

from collections.abc import Callable
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor

import attention
from attention.kernels import tiled

KERNELS = ["dense", "tiled"]


def every_mechanism() -> list[attention.Mechanism]:
    """Each registered mechanism at its defaults, and each of its named alternatives."""
    made = [attention.get(name) for name in attention.names()]
    return [
        *made,
        attention.get("lssar", power=3),
        attention.get("lssar", power=1),
        attention.get("gaussian", norm="row"),
        attention.get("gaussian", normalise=False, norm="row"),
        attention.get("gaussian", normalise=False),
        attention.get("swat", window=None, slopes="decay", bias=-1.0),
    ]


def label(mechanism: attention.Mechanism) -> str:
    """Readable test ids."""
    return repr(mechanism)


@dataclass
class Inputs:
    """Leaf tensors of a call and the gradient that comes back."""

    query: Tensor
    key: Tensor
    value: Tensor
    grad_out: Tensor

    def to(self, dtype: torch.dtype) -> "Inputs":
        """The same numbers, rounded to dtype, as fresh leaves."""
        return Inputs(*(x.detach().to(dtype).requires_grad_(x is not self.grad_out) for x in self.all))

    @property
    def all(self) -> tuple[Tensor, ...]:
        return self.query, self.key, self.value, self.grad_out


def make(batch=2, queries=9, keys=None, heads=4, key_heads=2, head_dim=8, seed=0, spread=1.0) -> Inputs:
    """Gaussian inputs in float64."""
    generator = torch.Generator().manual_seed(seed)
    keys = keys or queries

    def draw(*shape: int) -> Tensor:
        return torch.randn(*shape, generator=generator, dtype=torch.float64)

    return Inputs(
        draw(batch, queries, heads, head_dim).mul_(spread).requires_grad_(),
        draw(batch, keys, key_heads, head_dim).requires_grad_(),
        draw(batch, keys, key_heads, head_dim).requires_grad_(),
        draw(batch, queries, heads, head_dim),
    )


def run(inputs: Inputs, mechanism: attention.Mechanism, kernel: str, **arguments) -> dict[str, Tensor]:
    """Output and gradients of a call, learned parameters included."""
    heads = inputs.query.shape[2]
    params = {
        name: value.to(torch.promote_types(inputs.query.dtype, torch.float32)).requires_grad_()
        for name, value in mechanism.parameters(heads).items()
    }
    out = attention.attend(
        inputs.query, inputs.key, inputs.value, mechanism, kernel=kernel, params=params, **arguments
    )
    leaves = {"query": inputs.query, "key": inputs.key, "value": inputs.value, **params}
    gradients = torch.autograd.grad(out, list(leaves.values()), inputs.grad_out.to(out.dtype))
    return {"out": out.detach(), **dict(zip(leaves, gradients, strict=True))}


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Force blocks of few rows, so that short sequences take many of them."""

    def force(rows: int) -> None:
        monkeypatch.setattr(tiled, "MINIMUM_ROWS", rows)
        monkeypatch.setattr(tiled, "MAXIMUM_ROWS", rows)

    force(3)
    return force
