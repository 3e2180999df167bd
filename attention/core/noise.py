"""Gumbel noise that is a function of its place, so that forward and backward passes, in any order of tiles, agree.

Source of the generator: Salmon et al., "Parallel random numbers: as easy as 1, 2, 3", SC 2011 (Philox-4x32-10). The
counter is (key j, query i, head h, sequence b), the cipher's key the seed; the first of its four words is used:

    u = (word >> 9) + 1/2,        G = -ln(-ln(u / 2^23))

Of the word's 32 bits 23 are used, so that u / 2^23 is exact in float32 and never 0 or 1; G is in -2.81 .. 16.64.
"""

import torch
from torch import Tensor

from attention.core.scores import Noise

ROUNDS = 10
MULTIPLIERS = (0xD2511F53, 0xCD9E8D57)
WEYL = (0x9E3779B9, 0xBB67AE85)
WORD = 0xFFFFFFFF


def philox(counter: tuple[Tensor, Tensor, Tensor, Tensor], key: tuple[Tensor, Tensor]) -> Tensor:
    """The first word of Philox-4x32-10: int64 tensors of 32 bits each, broadcast against one another."""
    a, b, c, d = counter
    low, high = key
    for _ in range(ROUNDS):
        left, right = MULTIPLIERS[0] * a, MULTIPLIERS[1] * c
        a, b, c, d = (
            (right >> 32 & WORD) ^ b ^ low,
            right & WORD,
            (left >> 32 & WORD) ^ d ^ high,
            left & WORD,
        )
        low, high = low + WEYL[0] & WORD, high + WEYL[1] & WORD
    return a


def gumbel(
    noise: Noise,
    shape: torch.Size,
    position: Tensor,
    *,
    dtype: torch.dtype,
    first_key: int = 0,
) -> Tensor:
    """amplitude * G for scores [B, H, T, S].

    Args:
        noise: seed, amplitude, and the place of the first sequence here.
        shape: of the scores.
        position: of the queries among the keys, int64 [T].
        dtype: of the result.
        first_key: place of the first column.
    """
    batch, heads, _, keys = shape
    device = position.device
    sequence = (torch.arange(batch, device=device) + noise.first_sequence)[:, None, None, None]
    head = torch.arange(heads, device=device)[:, None, None]
    column = torch.arange(first_key, first_key + keys, device=device)
    seed = noise.seed.to(device)
    word = philox((column, position[:, None], head, sequence), (seed & WORD, seed >> 32 & WORD))
    uniform = ((word >> 9).to(dtype) + 0.5) / 2**23
    return -noise.amplitude * (-uniform.log()).log()
