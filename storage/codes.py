"""Weights on integer grids, and how they lie on disk: packed codes, a step and a zero for each group.

A group is a number of consecutive inputs of one output row (the last of a row may be shorter), and its weights are
`(code - zero) * step`. In a safetensors file a packed matrix NAME is three tensors,

    NAME.codes    uint8, codes of `bits` bits without gaps, row by row, the lowest bit of the first code first
    NAME.step     float32 [outputs, groups]
    NAME.zero     packed like the codes where all are codes themselves, else float32 [outputs, groups]

and the file's metadata has under "quantized" its shape, bits and group by NAME, as JSON.
"""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from models.errors import ModelError
from storage.checkpoint import save_weights

MOST_BITS = 8
_LAYOUTS = "quantized"
ORDER: Literal["little"] = "little"
"""The lowest bit of a byte comes first."""


@dataclass(frozen=True)
class QuantizedMatrix:
    """A weight matrix [outputs, inputs] of which every group lies on a grid of its own.

    Attributes:
        codes: uint8 [outputs, inputs], 0 to 2^bits - 1.
        step, zero: float32 [outputs, groups].
        bits: of a code, 1 to 8.
        group: consecutive inputs that share step and zero.
    """

    codes: Tensor
    step: Tensor
    zero: Tensor
    bits: int
    group: int

    def weight(self) -> Tensor:
        """`(code - zero) * step`, float32 [outputs, inputs]."""
        inputs = self.codes.shape[1]
        step, zero = (
            each.repeat_interleave(self.group, dim=1)[:, :inputs] for each in (self.step, self.zero)
        )
        return (self.codes.float() - zero) * step

    @property
    def nbytes(self) -> int:
        """Bytes on disk, without names."""
        zero = _packed_bytes(self.zero, self.bits) if self._whole_zeros else self.zero.nbytes
        return _packed_bytes(self.codes, self.bits) + self.step.nbytes + zero

    @property
    def _whole_zeros(self) -> bool:
        """Whether all zeros are codes themselves."""
        zero = self.zero
        return bool(((zero >= 0) & (zero < 2**self.bits) & (zero == zero.round())).all())


def pack(codes: Tensor, bits: int) -> Tensor:
    """Codes of any shape, 0 to 2^bits - 1, as a stream of bits: uint8 [ceil(codes * bits / 8)]."""
    each = np.unpackbits(codes.reshape(-1, 1).to("cpu", torch.uint8).numpy(), axis=1, bitorder=ORDER)
    return torch.from_numpy(np.packbits(each[:, :bits], bitorder=ORDER))


def unpack(stream: Tensor, bits: int, count: int) -> Tensor:
    """The `count` codes that `pack` put into a stream, uint8 [count]."""
    each = np.unpackbits(stream.numpy(), bitorder=ORDER)[: count * bits].reshape(count, bits)
    return torch.from_numpy(np.packbits(each, axis=1, bitorder=ORDER)[:, 0])


def _packed_bytes(codes: Tensor, bits: int) -> int:
    """The length of what `pack` makes of codes."""
    return math.ceil(codes.numel() * bits / 8)


def write_state(file: Path, state: Mapping[str, Tensor], quantized: Mapping[str, QuantizedMatrix]) -> None:
    """Write the tensors of a model, those named in `quantized` packed."""
    tensors = {name: tensor for name, tensor in state.items() if name not in quantized}
    layouts = {}
    for name, matrix in quantized.items():
        tensors |= _tensors(name, matrix)
        layouts[name] = {"shape": list(matrix.codes.shape), "bits": matrix.bits, "group": matrix.group}
    save_weights(tensors, file, metadata={"format": "pt", _LAYOUTS: json.dumps(layouts)})


def read_state(file: str | Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file by name, with packed matrices multiplied out to float32.

    Raises:
        ModelError: unreadable, or a packed matrix that is not whole.
    """
    try:
        with safe_open(file, "pt") as opened:
            layouts = json.loads((opened.metadata() or {}).get(_LAYOUTS, "{}"))
            state = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118
    except (OSError, SafetensorError, ValueError) as error:
        raise ModelError(f"cannot read the weights {file}: {error}") from error
    for name, layout in layouts.items():
        try:
            state[name] = _matrix(name, layout, state).weight()
        except (LookupError, TypeError, RuntimeError, ValueError) as error:
            raise ModelError(f"the quantized matrix {name} of {file} is not whole: {error}") from error
    return state


def _tensors(name: str, matrix: QuantizedMatrix) -> dict[str, Tensor]:
    zero = pack(matrix.zero, matrix.bits) if matrix._whole_zeros else matrix.zero
    return {
        f"{name}.codes": pack(matrix.codes, matrix.bits),
        f"{name}.step": matrix.step.contiguous(),
        f"{name}.zero": zero.contiguous(),
    }


def _matrix(name: str, layout: Mapping[str, Any], state: dict[str, Tensor]) -> QuantizedMatrix:
    """Take the three tensors of a packed matrix out of a file's."""
    outputs, inputs = layout["shape"]
    bits, group = layout["bits"], layout["group"]
    groups = math.ceil(inputs / group)
    codes = unpack(state.pop(f"{name}.codes"), bits, outputs * inputs).view(outputs, inputs)
    step, zero = state.pop(f"{name}.step"), state.pop(f"{name}.zero")
    if not zero.is_floating_point():
        zero = unpack(zero, bits, outputs * groups).view(outputs, groups).float()
    return QuantizedMatrix(codes, step, zero, bits, group)
