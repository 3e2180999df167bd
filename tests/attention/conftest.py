"""Problems that every mechanism and kernel is tried on."""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import pytest
import torch
from torch import Tensor

import attention
from attention.conformance import Inputs, cases, make, run
from attention.core.call import CallSpec
from attention.core.inputs import example, prepare
from attention.forms.chunked import Chunked
from attention.forms.composite import Composite
from attention.kernels import dispatch, tiled
from attention.kernels.kernel import obstacle

__all__ = [
    "KERNELS",
    "REPRESENTATIVES",
    "Inputs",
    "by_kernel",
    "every_mechanism",
    "label",
    "make",
    "pointwise_mechanisms",
    "run",
    "tiered",
]

every_mechanism = cases


def pointwise_mechanisms() -> list[attention.Mechanism]:
    """Those with pointwise functions of their own."""
    without = (Chunked, Composite)
    return [mechanism for mechanism in cases() if mechanism.form not in without]


KERNELS = [
    name
    for name, kernel in dispatch.KERNELS.items()
    if not any(
        obstacle(kernel, example(mechanism, dtype=torch.float64)) for mechanism in pointwise_mechanisms()
    )
]
"""Those that run every mechanism of pointwise functions in float64, here."""


REPRESENTATIVES = {
    "gaussian",
    "softpick",
    "lssar",
    "entmax15",
    "clipped_softmax",
    "adaptive_softmax",
    "weighted_softpick",
    "simrf",
}
"""A mechanism of each form: the others run what differs by form, not by mechanism, in `make test-all` alone."""


def by_kernel(
    mechanism: attention.Mechanism, inputs: Sequence[Tensor], compiled: set[str], **options: Any
) -> Iterator[tuple[str, Tensor, tuple[Tensor, ...]]]:
    """Outputs in float32 and gradients of their squares' sum, by each kernel that serves such a call; the C++ is
    compiled of the named mechanisms alone.
    """
    for name, kernel in dispatch.KERNELS.items():
        if name == "flex" or (name == "cpu" and mechanism.name not in compiled):
            continue
        single = [x.detach().float().requires_grad_() for x in inputs]
        if obstacle(kernel, prepare(*single, mechanism, CallSpec(**options))):
            continue
        out = attention.attend(*single, mechanism, kernel=name, **options)
        yield name, out, torch.autograd.grad(out.square().sum(), single)


def label(mechanism: attention.Mechanism) -> str:
    """Readable test ids."""
    return repr(mechanism)


def tiered(
    mechanism: attention.Mechanism, *others: object, exhaustive: bool = False, slow: bool = False
) -> object:
    """A case of every run where the mechanism is at its defaults, of `make test-all` where it is a variant."""
    variant = mechanism != attention.get(mechanism.name)
    marks = [pytest.mark.exhaustive] if variant or exhaustive else []
    marks += [pytest.mark.slow] if slow else []
    return pytest.param(mechanism, *others, marks=marks, id="-".join([label(mechanism), *map(str, others)]))


@pytest.fixture
def small_tiles(monkeypatch: pytest.MonkeyPatch) -> Callable[[int], None]:
    """Force blocks of few rows, so that short sequences take many of them."""

    def force(rows: int) -> None:
        monkeypatch.setattr(tiled, "MINIMUM_ROWS", rows)
        monkeypatch.setattr(tiled, "MAXIMUM_ROWS", rows)

    force(3)
    return force
