"""Attention weights of few bits, with and without softmax bias correction (Pandey et al., arXiv 2309.01729).

The weights of a layer lie on one static grid, whose range calibration text gave: 0 to 1 for softmax. Weights below half
a step become 0, so quantized rows sum to less than they did, by much for long rows of small weights. The correction
adds what is lost back, evenly over the keys a query sees:

    W'_ij = Q(W_ij) + c_hi / n_i,    c_hi = E[ sum_j W_ij - sum_j Q(W_ij) ]

per head h and row i, the mean over windows of calibration text. The paper has one c for all rows, which are of one
length there. Under causality row i sees n_i keys, and what it loses grows with them: the first row, all of whose weight
is on one key, loses nothing, a long one most of its mass. The paper has 1 for sum W, as softmax gives; with the sum
itself the formula serves mechanisms whose rows sum to something else.

Weights come from the dense formula, one sequence at a time: memory is heads x T x T.
"""

from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from attention import weights
from attention.core.masks import visibility
from eval.quantization.rounding import grid, rounded
from eval.subjects.base import AttentionReport, Subject
from eval.windows import Windows
from models import AttentionCall, ModelError

Ranges = dict[int, tuple[Tensor, Tensor]]
"""Smallest and largest weight by layer."""


@dataclass(frozen=True)
class Mass:
    """Sums of the rows of a window, means over the windows of some text, by layer, [H, T] each.

    Attributes:
        whole: sum_j W_ij.
        lost: sum_j W_ij - sum_j Q(W_ij), the c of the formula.
    """

    whole: dict[int, Tensor]
    lost: dict[int, Tensor]

    @property
    def mean(self) -> float:
        """The mean of the whole mass over layers, heads and rows."""
        return float(torch.cat(list(self.whole.values())).mean())

    @property
    def mean_lost(self) -> float:
        """The mean of the lost mass over layers, heads and rows."""
        return float(torch.cat(list(self.lost.values())).mean())

    @property
    def lost_by_row(self) -> Tensor:
        """The lost mass of each row [T], mean over layers and heads."""
        return torch.cat(list(self.lost.values())).mean(0)


def ranges(subject: Subject, windows: Windows) -> Ranges:
    """The range of each layer's weights on some text, 0 included."""
    found: Ranges = {}

    def widen(call: AttentionCall) -> None:
        for weight in _weights(call):
            low, high = found.get(call.layer, (weight.new_zeros(()), weight.new_zeros(())))
            found[call.layer] = torch.minimum(low, weight.amin()), torch.maximum(high, weight.amax())

    _watch(subject, windows, widen)
    return found


def mass(subject: Subject, windows: Windows, found: Ranges, widths: Sequence[int]) -> dict[int, Mass]:
    """Sums of the rows of each head on some text, and what each number of bits loses of them."""
    seen: dict[int, int] = defaultdict(int)
    whole: dict[int, Tensor] = {}
    lost: dict[int, dict[int, Tensor]] = {bits: {} for bits in widths}

    def add(sums: dict[int, Tensor], layer: int, values: Tensor) -> None:
        sums[layer] = sums.get(layer, 0) + values.double().sum(2)

    def watch(call: AttentionCall) -> None:
        for weight in _weights(call):
            seen[call.layer] += 1
            add(whole, call.layer, weight)
            for bits in widths:
                add(lost[bits], call.layer, weight - _rounded(weight, found[call.layer], bits))

    _watch(subject, windows, watch)

    def mean(sums: dict[int, Tensor]) -> dict[int, Tensor]:
        return {layer: total / seen[layer] for layer, total in sums.items()}

    return {bits: Mass(mean(whole), mean(lost[bits])) for bits in widths}


def attention(call: AttentionCall, bits: int, found: Ranges, correction: Mass | None = None) -> Tensor:
    """A layer's attention [B, T, H, D] with quantized weights, corrected where the lost mass is given.

    Raises:
        ModelError: windows longer than those the lost mass was measured on; what their last rows lose is unknown.
    """
    group = call.query.shape[2] // call.value.shape[2]
    sight = visibility(
        call.query.shape[1],
        call.key.shape[1],
        causal=call.spec.causal,
        window=call.spec.window or call.mechanism.window,
        device=call.query.device,
    )
    mixed = []
    for weight, value in zip(_weights(call), call.value, strict=True):
        weight = _rounded(weight, found[call.layer], bits)
        if correction is not None:
            weight = weight + _share(correction.lost[call.layer], weight, sight.count) * sight.mask()
        values = value.repeat_interleave(group, dim=1).transpose(0, 1)
        mixed.append((weight.to(values.dtype) @ values).transpose(0, 1))
    return torch.stack(mixed)


def _share(lost: Tensor, weight: Tensor, visible: Tensor) -> Tensor:
    """c / n [H, T, 1] for weights [H, T, S], whose rows are the last T of S."""
    rows, keys = weight.shape[1:]
    if keys > lost.shape[1]:
        raise ModelError(f"lost mass is known of rows of up to {lost.shape[1]} keys, not of {keys}")
    return (lost[:, keys - rows : keys].to(weight) / visible)[..., None]


def _weights(call: AttentionCall) -> Iterator[Tensor]:
    """The weights [H, T, S] of each sequence."""
    for query, key in zip(call.query.split(1), call.key.split(1), strict=True):
        yield weights(query, key, call.mechanism, kernel="dense", **call.spec.options)[0]


def _rounded(weight: Tensor, found: tuple[Tensor, Tensor], bits: int) -> Tensor:
    step, zero = grid(*found, bits)
    return rounded(weight, step, zero, bits)


def _watch(subject: Subject, windows: Windows, report: AttentionReport) -> None:
    with subject.trace(attention=report):
        for batch in windows.tokens.split(subject.batch(windows.tokens.shape[1])):
            subject.observe(batch)
