"""Half-quadratic quantization (Badri & Shaji 2023): grids whose zeros minimise a sparse error, without calibration.

The `hqq` library minimises `|| W - (Q(W) - zero) * step ||_p^p`, p = 0.7, over the zero of each group, a real number.
It knows 8, 6, 5, 4, 3, 2 and 1 bits. Groups are, as everywhere in this project, consecutive inputs of one output row
(the library's axis 1); a shorter last group of a row is fitted by itself.
"""

import importlib.util

import torch
from torch import Tensor

from models import ModelError
from storage import QuantizedMatrix

BITS = (8, 6, 5, 4, 3, 2, 1)


def check(bits: tuple[int, ...]) -> None:
    """Refuse what cannot be done before any work is.

    Raises:
        ModelError: the library is missing, or does not know one of the bit widths.
    """
    if importlib.util.find_spec("hqq") is None:
        raise ModelError("method hqq needs the library hqq: pip install -e '.[eval]'")
    for width in bits:
        if width not in BITS:
            raise ModelError(f"hqq knows {', '.join(map(str, BITS))} bits, not {width}")


def half_quadratic(weight: Tensor, bits: int, group: int) -> QuantizedMatrix:
    """A matrix [outputs, inputs] on grids fitted by the library.

    Raises:
        ModelError: as `check`, or a weight is not finite.
    """
    check((bits,))
    if not weight.isfinite().all():
        raise ModelError("the model has weights that are not finite; it cannot be quantized")
    whole = weight.shape[1] // group * group
    parts = [
        _fit(part, bits, min(group, part.shape[1]))
        for part in weight.tensor_split([whole], 1)
        if part.numel()
    ]
    codes, step, zero = (torch.cat(columns, 1) for columns in zip(*parts, strict=True))
    return QuantizedMatrix(codes, step, zero, bits, group)


def _fit(weight: Tensor, bits: int, group: int) -> tuple[Tensor, Tensor, Tensor]:
    """Codes [outputs, inputs], step and zero [outputs, groups]; `group` divides the inputs."""
    # Imported late: it takes seconds.
    from hqq.core.quantize import Quantizer

    codes, facts = Quantizer.quantize(
        weight.float(), nbits=bits, group_size=group, axis=1, bitpack=False, device=str(weight.device)
    )
    step, zero = (facts[name].view(len(weight), -1) for name in ("scale", "zero"))
    return codes.view(weight.shape).to(torch.uint8), step.float(), zero.float()
