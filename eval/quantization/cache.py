"""A KV cache of few bits: attention reads keys and values from a grid of their own for every token and head.

Each key (after RoPE, as a cache keeps it) and each value is rounded to nearest on the asymmetric grid of its head_dim
channels, with a step and a zero. Every key and value that a query reads is rounded, its own included. It is done where
attention happens, so that any mechanism, and any model whose attention can be traced, is measured the same way.
"""

import torch
from torch import Tensor

from attention import attend
from eval.quantization.rounding import grid, rounded
from models import AttentionCall


def rounded_per_token(values: Tensor, bits: int) -> Tensor:
    """Keys or values [B, S, Hk, D] on the grids of their last axis."""
    wide = values.float()
    step, zero = grid(wide.amin(-1, keepdim=True), wide.amax(-1, keepdim=True), bits)
    return rounded(wide, step, zero, bits).to(values.dtype)


class QuantizedCache:
    """Attention that reads a cache of `bits` bits, for `Subject.trace`.

    Attributes:
        bits: per channel of a key or value.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._bytes: dict[int, float] = {}

    def attention(self, call: AttentionCall) -> Tensor:
        """A layer's attention [B, T, H, D] on rounded keys and values."""
        key, value = (rounded_per_token(each, self.bits) for each in (call.key, call.value))
        # Codes, and for each head's key and value a step in float32 and a zero that is itself a code.
        overhead = 2 * (torch.finfo(torch.float32).bits + self.bits)
        bits = (key.shape[3] + value.shape[3]) * self.bits + overhead
        self._bytes[call.layer] = key.shape[2] * bits / 8
        return attend(call.query, key, value, call.mechanism, **call.spec.options)

    @property
    def bytes_per_token(self) -> float:
        """Bytes that all layers that have attended keep of one token."""
        return sum(self._bytes.values())
