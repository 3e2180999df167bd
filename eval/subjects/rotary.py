"""Rotary positions of Hugging Face models, rescaled by the formulas of `models.rope`.

A rotary module of transformers holds its frequencies in a buffer `inv_freq`, or one for each kind of layer
(`full_attention_inv_freq`), and a factor of cosines and sines, `attention_scaling`. Both are replaced for a while. A
table of layers that see a window alone is kept: they look no further than in training, however long the text.

NTK is what transformers computes as "dynamic" with a factor of 1. YaRN has the same temperature as in transformers and
the same slowest and fastest pairs; between them the ramp is the paper's, linear in turns, where transformers has it
linear in channels.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from models.rope import Rope

TABLE = "inv_freq"
LOCAL = "sliding_attention"


@dataclass(frozen=True)
class RotaryTable:
    """The frequencies of one rotary module, or of one kind of layer in it.

    Attributes:
        module: that holds them.
        prefix: of its buffer and its factor, "" or the kind of layer with an underscore.
        rope: what made them.
    """

    module: nn.Module
    prefix: str
    rope: Rope

    @property
    def frequencies(self) -> Tensor:
        """Radians per position, [pairs]."""
        return self.module.get_buffer(self.prefix + TABLE)

    def write(self, frequencies: Tensor, magnitude: float) -> None:
        """Replace frequencies and factor."""
        self.frequencies.copy_(frequencies)
        setattr(self.module, f"{self.prefix}attention_scaling", magnitude)

    @property
    def magnitude(self) -> float:
        """The factor of cosines and sines."""
        return float(getattr(self.module, f"{self.prefix}attention_scaling"))


def rotary_tables(network: nn.Module, parameters: Mapping[str, Any]) -> list[RotaryTable] | str:
    """Every table that can be rescaled; or why none can be, as the end of a sentence about the positions.

    Args:
        network: the model.
        parameters: `rope_parameters` of its config, which may have an entry for each kind of layer.
    """
    found = []
    for module in network.modules():
        for name, table in module.named_buffers(recurse=False):
            if not name.endswith(TABLE) or "original" in name:
                continue
            kind = name.removesuffix(TABLE).removesuffix("_")
            own = parameters.get(kind, parameters) if kind else parameters
            if (how := own.get("rope_type", "default")) != "default":
                return f"are scaled by its own config (rope_type {how})"
            rope = Rope(2 * len(table), float(own.get("rope_theta", 0.0)) or 1.0)
            if not torch.allclose(table.cpu().float(), rope.frequencies(), rtol=1e-4):
                return "are no powers of its rope_theta"
            if kind != LOCAL:
                found.append(RotaryTable(module, f"{kind}_" if kind else "", rope))
    return found or "are no rotary ones that could be rescaled"


@contextmanager
def rescaled(tables: list[RotaryTable], scaling: str, factor: float, train_length: int) -> Iterator[None]:
    """While open, the tables are those of sequences `factor` times as long as in training.

    Args:
        tables: from `rotary_tables`.
        scaling, factor, train_length: as of `models.rope.Rope.rescaled`.
    """
    trained = [(table, table.frequencies.clone(), table.magnitude) for table in tables]
    try:
        for table, _, magnitude in trained:
            rope = table.rope.rescaled(scaling, factor, train_length)
            table.write(rope.frequencies(), magnitude * rope.magnitude)
        yield
    finally:
        for table, frequencies, magnitude in trained:
            table.write(frequencies, magnitude)
