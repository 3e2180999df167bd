"""Rotary position embedding (Su et al., arXiv 2104.09864): scores that depend on distance alone.

    frequency_c = theta^(-2c / head_dim),        pair c of channels at position p turns by p frequency_c

`Rope` is the table of frequencies, as trained or rescaled for sequences `factor` times longer than in training:

    ntk     theta' = theta factor^(head_dim / (head_dim - 2))
            "NTK-aware": the slowest pair is slowed by factor, the fastest not at all (Peng et al., arXiv 2309.00071,
            section 3.1, who credit a post of bloc97).
    yarn    frequency' = (1 - ramp) frequency / factor + ramp frequency
            ramp = clip((r - 1) / (32 - 1), 0, 1),        r = train_length frequency / 2 pi
            "NTK by parts": a pair that turns less than once in train_length is slowed by factor, one that turns more
            than 32 times is kept (ibid., section 3.2; published code lets the ramp be linear in c instead of r).
            Queries and keys grow by 0.1 ln factor + 1, so that dot products grow by its square: the attention
            temperature of section 3.4. A mechanism that normalises queries and keys (lssa, lssar, gaussian) has no
            such scale and stays as it is.
"""

import math
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from common.errors import nearest
from common.shapes import finite
from models.errors import ModelError

SCALINGS = {
    "none": "as trained",
    "ntk": "base of the frequencies times s^(d / (d - 2))",
    "yarn": "frequencies slowed by up to s, by how often they turn in training; scores times (0.1 ln s + 1)^2",
}
"""Every way to rescale, in words; s is the factor, d the channels of a head."""
SLOW, FAST = 1, 32
"""Turns within the training length between which YaRN mixes: alpha and beta of the paper's section 3.2."""


@dataclass(frozen=True)
class Rope:
    """Frequencies of rotation, one per pair of channels.

    Attributes:
        head_dim: channels of a head, even.
        theta: base of the frequencies.
        scaling: one of `SCALINGS`.
        factor: how much longer sequences are than in training, at least 1, which changes nothing.
        train_length: positions that were trained on, which yarn needs; 0 where nothing is rescaled.
    """

    head_dim: int
    theta: float
    scaling: str = "none"
    factor: float = 1.0
    train_length: int = 0

    def rescaled(self, scaling: str, factor: float, train_length: int) -> "Rope":
        """The same table for sequences `factor` times as long as the `train_length` positions of training.

        Raises:
            ModelError: unknown scaling, or a factor that is not at least 1.
        """
        if scaling not in SCALINGS:
            raise ModelError(f"unknown RoPE scaling {scaling!r}{nearest(scaling, SCALINGS)}")
        if not (factor >= 1 and finite(factor)):
            raise ModelError(f"RoPE is rescaled by a factor of at least 1, got {factor}")
        return replace(self, scaling=scaling, factor=factor, train_length=train_length)

    def frequencies(self, device: torch.device | None = None, dtype: torch.dtype = torch.float32) -> Tensor:
        """Radians per position, [head_dim / 2]."""
        exponent = torch.arange(0, self.head_dim, 2, device=device, dtype=dtype) / self.head_dim
        if self.scaling == "ntk" and self.head_dim > 2:
            return (self.theta * self.factor ** (self.head_dim / (self.head_dim - 2))) ** -exponent
        frequency = self.theta**-exponent
        if self.scaling == "yarn":
            turns = self.train_length * frequency / (2 * math.pi)
            ramp = ((turns - SLOW) / (FAST - SLOW)).clamp(0, 1)
            return (1 - ramp) * frequency / self.factor + ramp * frequency
        return frequency

    @property
    def magnitude(self) -> float:
        """What queries and keys are multiplied by: 1, or YaRN's sqrt(1 / t) = 0.1 ln factor + 1."""
        return 0.1 * math.log(self.factor) + 1 if self.scaling == "yarn" else 1.0

    def rotations(self, start: int, length: int, like: Tensor) -> tuple[Tensor, Tensor]:
        """Cosines and signed sines [length, 1, head_dim] for the positions from `start` on, times `magnitude`.

        A sine is negative for the first half of the channels, which loses by the rotation what the second one wins.

        Computed once per forward pass and shared by all layers: no table to size, move or save. In float32 at
        least, because half precision cannot tell neighbouring positions apart.
        """
        dtype = torch.promote_types(like.dtype, torch.float32)
        position = torch.arange(start, start + length, device=like.device, dtype=dtype)
        angle = position[:, None, None] * self.frequencies(like.device, dtype)
        cosine, sine = angle.cos(), angle.sin()
        if self.magnitude != 1:
            cosine, sine = self.magnitude * cosine, self.magnitude * sine
        return torch.cat([cosine, cosine], -1), torch.cat([-sine, sine], -1)


def rotate(heads: Tensor, rotation: tuple[Tensor, Tensor]) -> Tensor:
    """Turn channel c and channel c + head_dim / 2 of [B, T, H, head_dim] by the angle of their position."""
    cosine, sine = rotation
    wide = heads.to(cosine.dtype)
    # Halves are swapped whole: long rows of memory, which products of halves are not.
    return (wide * cosine + wide.roll(heads.shape[-1] // 2, -1) * sine).to(heads.dtype)
