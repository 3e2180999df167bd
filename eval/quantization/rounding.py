"""Round to nearest: every weight to the closest point of the grid of its group.

With b bits, `step = (max - min) / (2^b - 1)` and `zero = round(-min / step)`, min and max taken over the group and 0;
`code = clamp(round(w / step) + zero, 0, 2^b - 1)`, and the weight becomes `(code - zero) * step`.
"""

import torch
from torch import Tensor

from models import ModelError
from storage import QuantizedMatrix


def round_to_nearest(weight: Tensor, bits: int, group: int) -> QuantizedMatrix:
    """A matrix [outputs, inputs] in groups of `group` consecutive inputs; the last of a row may be shorter.

    Raises:
        ModelError: a weight is not finite.
    """
    if not weight.isfinite().all():
        raise ModelError("the model has weights that are not finite; it cannot be quantized")
    inputs = weight.shape[1]
    # The ragged last group is filled with zeros, which never widen a range that includes 0.
    padded = torch.nn.functional.pad(weight.float(), (0, -inputs % group)).unflatten(1, (-1, group))
    step, zero = grid(padded.amin(-1, keepdim=True), padded.amax(-1, keepdim=True), bits)
    codes = encode(padded, step, zero, bits).flatten(1)[:, :inputs]
    return QuantizedMatrix(codes.to(torch.uint8), step.squeeze(-1), zero.squeeze(-1), bits, group)


def grid(low: Tensor, high: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    """Step and zero of the grid of 2^bits points that spans low to high and has a point at 0."""
    low, high = low.clamp(max=0), high.clamp(min=0)
    step = ((high - low) / (2**bits - 1)).clamp(min=torch.finfo(torch.float32).tiny)
    return step, (-low / step).round()


def encode(values: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The code of the nearest point of a grid, in floating point."""
    return ((values / step).round() + zero).clamp(0, 2**bits - 1)


def rounded(values: Tensor, step: Tensor, zero: Tensor, bits: int) -> Tensor:
    """The nearest point of a grid."""
    return (encode(values, step, zero, bits) - zero) * step
