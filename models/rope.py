"""Rotary position embedding (Su et al., arXiv 2104.09864): scores that depend on distance alone."""

import torch
from torch import Tensor


def rotations(start: int, length: int, head_dim: int, theta: float, like: Tensor) -> tuple[Tensor, Tensor]:
    """Cosines and sines [length, 1, head_dim / 2] for the positions from `start` on.

    Computed once per forward pass and shared by all layers: no table to size, move or save. In float32 at
    least, because half precision cannot tell neighbouring positions apart.
    """
    dtype = torch.promote_types(like.dtype, torch.float32)
    position = torch.arange(start, start + length, device=like.device, dtype=dtype)
    channel = torch.arange(0, head_dim, 2, device=like.device, dtype=dtype)
    angle = position[:, None, None] * theta ** (-channel / head_dim)
    return angle.cos(), angle.sin()


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn channel c and channel c + head_dim / 2 of [B, T, H, head_dim] by the angle of their position."""
    cosine, sine = rotation
    left, right = heads.to(cosine.dtype).chunk(2, dim=-1)
    return torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1).to(heads.dtype)
