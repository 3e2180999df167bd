"""GPTQ (Frantar et al., arXiv 2210.17323): weights rounded one input at a time, the later ones making up for it.

A change D of a matrix adds `tr(D H D^T)` to the mean squared error of its outputs, with `H = X X^T / N` over the inputs
of N tokens. When input j of every row has been rounded, the best change of the inputs that are left is

    w_k -= (w_j - q_j) / U_jj * U_jk,   k > j,   U the upper Cholesky factor of (H + damping)^-1,

`damping` times the mean diagonal of H on its diagonal. A group's grid is fitted when its first input is reached, to the
weights as they are by then. Inputs are taken in order (no "act-order").

Blocks are quantized one after another, each on what the blocks before it give once they are quantized.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn

from eval.quantization.rounding import encode, grid
from eval.quantization.stream import BlockStream
from eval.quantization.weights import linear_layers, preserved, weight_matrices
from eval.subjects.base import Subject
from models import ModelError
from storage import QuantizedMatrix


def quantize_blocks(
    subject: Subject, stream: BlockStream, bits: int, group: int, damping: float
) -> dict[str, QuantizedMatrix]:
    """Every linear layer of the blocks, by name; the network is left as it was.

    Args:
        subject: what to quantize.
        stream: text to calibrate on, in front of the first block.
        bits, group, damping: as in `quantize_matrix`.

    Raises:
        ModelError: a layer that no token of the text reaches, or as `quantize_matrix`.
    """
    matrices = weight_matrices(subject.blocks)
    quantized: dict[str, QuantizedMatrix] = {}
    with torch.inference_mode(), preserved(matrices):
        for index, block in enumerate(subject.blocks):
            if index:
                stream = stream.behind(subject.blocks[index - 1])
            layers = {f"{index}.{name}": layer for name, layer in linear_layers(block).items()}
            with _inputs(layers) as reached:
                stream.run(block)
            for shared in reached.values():
                # Matrices of one input, as query, key and value, are rows of one large matrix.
                members = {name: matrices[name] for name in shared.names}
                whole = quantize_matrix(
                    torch.cat(list(members.values())), shared.hessian(), bits, group, damping
                )
                quantized |= zip(
                    members, _split(whole, [len(rows) for rows in members.values()]), strict=True
                )
            for name in layers.keys() & quantized.keys():
                matrices[name].copy_(quantized[name].weight())
    missing = matrices.keys() - quantized.keys()
    if missing:
        raise ModelError(f"no token of the calibration text reaches {min(missing)}, so GPTQ cannot round it")
    return quantized


def quantize_matrix(
    weight: Tensor, hessian: Tensor, bits: int, group: int, damping: float
) -> QuantizedMatrix:
    """One matrix [outputs, inputs].

    Args:
        weight: the matrix.
        hessian: `X X^T / N`, float64 [inputs, inputs]; all 0 where nothing is known, which gives round-to-nearest.
        bits: per weight, 1 to 8.
        group: consecutive inputs of a row that share a grid.
        damping: added to the diagonal of the Hessian, in means of that diagonal.

    Raises:
        ModelError: weights or Hessian are not finite, or the damped Hessian is not positive definite.
    """
    if not (weight.isfinite().all() and hessian.isfinite().all()):
        raise ModelError("the model has weights or activations that are not finite; it cannot be quantized")
    # Inputs come first: what is rounded next, and all that then changes, lies together.
    wide = torch.promote_types(weight.dtype, torch.float32)
    remaining = weight.T.to(wide, copy=True, memory_format=torch.contiguous_format)
    upper = _inverse_factor(hessian, damping).to(remaining)
    codes = torch.empty_like(remaining, dtype=torch.uint8)
    steps, zeros = [], []
    for start in range(0, len(remaining), group):
        inputs = slice(start, min(start + group, len(remaining)))
        here, factor = remaining[inputs], upper[inputs, inputs]
        step, zero = grid(here.amin(0), here.amax(0), bits)
        errors = torch.empty_like(here)
        for j, value in enumerate(here):
            code = encode(value, step, zero, bits)
            codes[start + j] = code
            errors[j] = (value - (code - zero) * step) / factor[j, j]
            here[j + 1 :] -= errors[j] * factor[j, j + 1 :, None]
        remaining[inputs.stop :] -= upper[inputs, inputs.stop :].T @ errors
        steps.append(step)
        zeros.append(zero)
    step, zero = (torch.stack(each, 1).float() for each in (steps, zeros))
    return QuantizedMatrix(codes.T.contiguous(), step, zero, bits, group)


def _inverse_factor(hessian: Tensor, damping: float) -> Tensor:
    """The upper Cholesky factor U of the inverse of the damped Hessian, U^T U = H^-1."""
    mean = hessian.diagonal().mean()
    identity = torch.eye(len(hessian), dtype=torch.float64, device=hessian.device)
    damped = hessian + damping * mean * identity if mean > 0 else identity
    # Read backwards, H = L L^T is H = R R^T with R upper, and U is the inverse of R.
    lower, failed = torch.linalg.cholesky_ex(damped.flip(0, 1))
    if failed:
        raise ModelError("the inputs of a layer are linearly dependent; give a larger --damping")
    return torch.linalg.solve_triangular(lower.flip(0, 1), identity, upper=True)


def _split(matrix: QuantizedMatrix, rows: list[int]) -> list[QuantizedMatrix]:
    pieces = zip(*(tensor.split(rows) for tensor in (matrix.codes, matrix.step, matrix.zero)), strict=True)
    return [QuantizedMatrix(codes, step, zero, matrix.bits, matrix.group) for codes, step, zero in pieces]


class _Shared:
    """The second moments of an input that several layers share."""

    def __init__(self, inputs: int, device: torch.device) -> None:
        self.names: list[str] = []
        self.sum = torch.zeros(inputs, inputs, dtype=torch.float64, device=device)
        self.count = 0

    def add(self, values: Tensor) -> None:
        """Account for inputs [..., inputs]."""
        flat = values.flatten(0, -2).float()
        self.sum += flat.T @ flat
        self.count += len(flat)

    def hessian(self) -> Tensor:
        """X X^T / N, float64."""
        return self.sum / self.count


@contextmanager
def _inputs(layers: dict[str, nn.Module]) -> Iterator[dict[str, _Shared]]:
    """While open, collect what the layers are given, under the name of the first of those given the same tensor."""
    found: dict[str, _Shared] = {}
    first_of: dict[str, str] = {}
    latest: tuple[str, Tensor | None] = "", None

    def hook(name: str) -> Callable[..., None]:
        def before(layer: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            nonlocal latest
            if name not in first_of:
                first_of[name] = latest[0] if inputs[0] is latest[1] else name
                shared = found.setdefault(first_of[name], _Shared(inputs[0].shape[-1], inputs[0].device))
                shared.names.append(name)
            if first_of[name] == name:
                latest = name, inputs[0]
                found[name].add(inputs[0])

        return before

    handles = [layer.register_forward_pre_hook(hook(name)) for name, layer in layers.items()]
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
