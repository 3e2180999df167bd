"""The capabilities of each mechanism, and the kernels that run it, read from the registry."""

from dataclasses import dataclass, fields

import torch

from attention.core.inputs import example
from attention.core.mechanism import Mechanism
from attention.core.registry import get, names


@dataclass(frozen=True)
class Capability:
    """One row of the capability table."""

    name: str
    formula: str
    paper: str
    form: str
    window: int | None
    options: dict[str, object]
    learned: tuple[str, ...]
    kernels: tuple[str, ...]


def kernels(mechanism: Mechanism) -> list[str]:
    """The kernels that serve a mechanism on this machine, fastest first; none is built to find out."""
    from attention.kernels.dispatch import KERNELS
    from attention.kernels.kernel import refusal

    inputs = example(mechanism, device="cuda" if torch.cuda.is_available() else "cpu")
    return [kernel.name for kernel in KERNELS.values() if refusal(kernel, inputs) is None]


def capabilities() -> list[Capability]:
    """One entry per mechanism, at its default options, with the kernels that serve it on this machine."""
    return [_capability(name) for name in names()]


def _capability(name: str) -> Capability:
    mechanism = get(name)
    return Capability(
        name,
        mechanism.formula,
        mechanism.paper,
        mechanism.form.__name__,
        mechanism.window,
        {field.name: getattr(mechanism, field.name) for field in fields(mechanism)},  # type: ignore[arg-type]
        tuple(mechanism.initial_values(2, 64)),
        tuple(kernels(mechanism)),
    )
