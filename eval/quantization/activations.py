"""8-bit activations: what every linear layer of the blocks multiplies its weights with.

An input x becomes `clamp(round(x / step), -L, L) * step`, L = 2^(b-1) - 1, symmetric around 0. Dynamic: step is
`max |x| / L` of each token. Static: one step per layer, from the largest |x| that calibration text gave it; a single
massive activation then makes the grid coarse for every token, which is where outliers bite.
"""

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from functools import partial

import torch
from torch import Tensor, nn

from eval.quantization.weights import linear_layers
from eval.subjects.base import Subject
from eval.windows import Windows


def rounded_inputs(values: Tensor, bits: int, largest: Tensor) -> Tensor:
    """Values on the symmetric grid whose last point is `largest`."""
    levels = 2 ** (bits - 1) - 1
    step = (largest / levels).clamp(min=torch.finfo(torch.float32).tiny)
    return ((values / step).round().clamp(-levels, levels) * step).to(values.dtype)


def largest_inputs(subject: Subject, windows: Windows) -> dict[str, Tensor]:
    """The largest |x| that each linear layer is given on some text, by name."""
    found: dict[str, Tensor] = {}

    def watch(name: str, values: Tensor) -> None:
        found[name] = torch.maximum(found.get(name, values.new_zeros(())), values.abs().amax())

    layers = linear_layers(subject.blocks)
    with _before(layers, {name: partial(watch, name) for name in layers}):
        for batch in windows.tokens.split(subject.batch(windows.tokens.shape[1])):
            subject.observe(batch)
    return found


@contextmanager
def quantized_activations(
    subject: Subject, bits: int, largest: Mapping[str, Tensor] | None = None
) -> Iterator[None]:
    """While open, every linear layer of the blocks sees rounded inputs.

    Args:
        subject: whose blocks.
        bits: per activation.
        largest: the largest |x| by layer, for static steps; None: of each token, dynamic. A layer that calibration
            never reached is dynamic.
    """

    def shown(name: str, values: Tensor) -> Tensor:
        if largest is not None and name in largest:
            return rounded_inputs(values, bits, largest[name])
        return rounded_inputs(values, bits, values.abs().amax(-1, keepdim=True))

    layers = linear_layers(subject.blocks)
    with _before(layers, {name: partial(shown, name) for name in layers}):
        yield


@contextmanager
def _before(
    layers: Mapping[str, nn.Module], calls: Mapping[str, Callable[[Tensor], Tensor | None]]
) -> Iterator[None]:
    """While open, each layer's call gets its input first, and what it returns, if anything, replaces it."""

    def hook(name: str) -> Callable[..., Tensor | None]:
        return lambda layer, inputs: calls[name](inputs[0])

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
