"""The weight matrices of a network: which there are, and quantized ones in their place for a while."""

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from storage import QuantizedMatrix

Quantized = Mapping[str, QuantizedMatrix]
"""Quantized matrices by the name of the linear layer inside the blocks, "0.attention.query"."""


BLOCKS = "layers"
"""The prefix of the blocks among the parameters of a run's model."""


def packed_parameters(quantized: Quantized) -> dict[str, QuantizedMatrix]:
    """Quantized matrices of a run by the name of the parameter, "layers.0.attention.query.weight"."""
    return {f"{BLOCKS}.{name}.weight": matrix for name, matrix in quantized.items()}


def linear_layers(blocks: nn.Module) -> dict[str, nn.Module]:
    """Every linear layer by name: `nn.Linear`, and GPT-2's own in transformers, `Conv1D`."""
    return {
        name: module
        for name, module in blocks.named_modules()
        if isinstance(module, nn.Linear) or (type(module).__name__ == "Conv1D" and module.weight.dim() == 2)
    }


def weight_matrices(blocks: nn.Module) -> dict[str, Tensor]:
    """The weights of every linear layer as [outputs, inputs], by name; views that can be written to."""
    matrices = {}
    for name, module in linear_layers(blocks).items():
        weight = module.get_parameter("weight").detach()
        # Conv1D stores [inputs, outputs].
        matrices[name] = weight if isinstance(module, nn.Linear) else weight.T
    return matrices


def other_matrices(blocks: nn.Module) -> dict[str, int]:
    """Parameters of matrices in the blocks that no linear layer holds, such as stacked experts, by class of module."""
    linear = set(linear_layers(blocks).values())
    found: dict[str, int] = {}
    for module in blocks.modules():
        for parameter in module.parameters(recurse=False) if module not in linear else ():
            if parameter.dim() >= 2 and min(parameter.shape[-2:]) > 1:
                name = type(module).__name__
                found[name] = found.get(name, 0) + parameter.numel()
    return found


@contextmanager
def preserved(matrices: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    """While open, the matrices may be written to; then they are again what they were. Yields the originals."""
    originals = {name: matrix.clone() for name, matrix in matrices.items()}
    try:
        yield originals
    finally:
        for name, matrix in matrices.items():
            matrix.copy_(originals[name])


@contextmanager
def replaced(matrices: Mapping[str, Tensor], quantized: Quantized) -> Iterator[float]:
    """While open, the quantized weights are in place; yields ||quantized - original|| / ||original|| over all."""
    with preserved(matrices) as originals:
        error = norm = 0.0
        for name, matrix in matrices.items():
            matrix.copy_(quantized[name].weight())
            error += float((matrix - originals[name]).double().square().sum())
            norm += float(originals[name].double().square().sum())
        yield math.sqrt(error / norm) if norm else 0.0
