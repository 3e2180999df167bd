"""The gradient noise scale: about the batch size beyond which larger batches stop helping (arXiv 1812.06162).

    B_simple = tr Σ / ‖G‖²,     G the true gradient, Σ the covariance of the gradient of one token

A gradient g averaged over n tokens has E‖g‖² = ‖G‖² + tr Σ / n. A step of several micro-batches, on one process or
many, shows that at two sizes: each micro-batch and the whole step.
"""

from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor

DECAY = 0.99
"""Of the moving averages, per step."""


@dataclass
class NoiseScale:
    """Moving averages of tr Σ and ‖G‖², whose single estimates are too noisy to divide, or even to be positive.

    Both start at 0, which their quotient does not show.
    """

    trace: float = 0.0
    signal: float = 0.0

    def update(self, small: float, inverse_size: float, large: float, size: float) -> None:
        """Account for one step.

        Args:
            small: mean of ‖g‖² over micro-batches, each gradient averaged over its own tokens.
            inverse_size: mean of 1 / n over them, n the tokens of a micro-batch.
            large: ‖g‖² of the whole step.
            size: its tokens.
        """
        if inverse_size <= 1 / size:  # all tokens lie in one micro-batch: one size only
            return
        trace = (small - large) / (inverse_size - 1 / size)
        self.trace = DECAY * self.trace + (1 - DECAY) * trace
        self.signal = DECAY * self.signal + (1 - DECAY) * (large - trace / size)

    @property
    def tokens(self) -> float | None:
        """The noise scale in tokens; None before there is a positive estimate."""
        return self.trace / self.signal if self.trace > 0 and self.signal > 0 else None


class GradientSquares:
    """Adds up ‖g‖² of every backward pass: of what it brings itself, before it is accumulated or reduced."""

    def __init__(self, model: nn.Module) -> None:
        """Watch the parameters of a model; those that FSDP shards are watched from where they are whole."""
        self._squares: list[Tensor] = []
        self._watched: set[int] = set()
        for module in model.modules():
            if isinstance(module, FSDPModule):
                module.register_forward_pre_hook(lambda module, inputs: self._watch(module))
        self._watch(model)

    def take(self) -> Tensor:
        """‖g‖² since the last call."""
        total = torch.stack(self._squares).sum()
        self._squares.clear()
        return total

    def _watch(self, model: nn.Module) -> None:
        for parameter in model.parameters():
            if not isinstance(parameter, DTensor) and id(parameter) not in self._watched:
                parameter.register_hook(self._add)
                self._watched.add(id(parameter))

    def _add(self, gradient: Tensor) -> None:
        self._squares.append(torch.linalg.vector_norm(gradient, dtype=torch.float32).square())
