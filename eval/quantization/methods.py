"""Every linear layer of a model's blocks quantized by the name of a method."""

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property

from torch import Tensor

from eval.quantization import gptq
from eval.quantization.calibration import training_windows
from eval.quantization.hqq import half_quadratic
from eval.quantization.rounding import round_to_nearest
from eval.quantization.stream import BlockStream
from eval.quantization.weights import Quantized, weight_matrices
from eval.subjects.base import Subject
from eval.windows import Windows
from storage import QuantizedMatrix

MATRIX_METHODS: dict[str, Callable[[Tensor, int, int], QuantizedMatrix]] = {
    "rtn": round_to_nearest,
    "hqq": half_quadratic,
}
"""Methods that look at one matrix at a time: (weight, bits, group)."""
WEIGHT_METHODS = (*MATRIX_METHODS, "gptq")


@dataclass(frozen=True)
class WeightQuantizer:
    """Quantizes the weights of one subject; leaves its network as it is.

    Attributes:
        subject: whose blocks.
        group: consecutive inputs of a row that share a grid.
        length: tokens of a calibration window.
        calibration: number of windows.
        damping: of gptq.
    """

    subject: Subject
    group: int
    length: int
    calibration: int
    damping: float

    @cached_property
    def text(self) -> Windows:
        """The training text to calibrate on."""
        return training_windows(self.subject, self.length, self.calibration)

    @cached_property
    def stream(self) -> BlockStream:
        """The text in front of the first block, where no width has changed anything yet."""
        return BlockStream(self.subject, self.text)

    def quantize(self, method: str, bits: int) -> Quantized:
        """Every matrix at `bits` bits by one of `WEIGHT_METHODS`.

        Raises:
            ModelError: as the method.
        """
        if method == "gptq":
            return gptq.quantize_blocks(self.subject, self.stream, bits, self.group, self.damping)
        matrices = weight_matrices(self.subject.blocks)
        return {name: MATRIX_METHODS[method](matrix, bits, self.group) for name, matrix in matrices.items()}
