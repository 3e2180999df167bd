"""ALiBi: scores that fall with distance, one slope per head (Press et al., arXiv 2108.12409)."""

import torch
from torch import Tensor

from attention.core.arguments import check_size


def alibi(n_head: int, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
    """-2^{-8k/H} for heads k = 1..H, [H]: `attend(..., slopes=alibi(n_head))` adds slope_k (i - j) to their scores.

    The paper's sequence. Its code takes others where H is no power of two: those of the next lower power, and every
    other one of twice that.

    Raises:
        AttentionError: n_head is no whole number from 1 on.
    """
    check_size("n_head", n_head)
    return -(2.0 ** (-8 * torch.arange(1, n_head + 1, dtype=dtype, device=device) / n_head))
