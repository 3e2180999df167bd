"""Optimizers: one file each, found by listing this folder.

A file has `build(model, options, learning_rate)`, its `Options`, which are keys of `train`, and `MEMORY`: the names of
what it remembers of a parameter, one set per kind of parameter.
"""

from dataclasses import dataclass
from typing import Any

from torch import nn
from torch.optim import Optimizer

from common.listing import modules, options
from common.ranges import one_of

OPTIMIZERS = modules(__name__, without={"groups"})


@dataclass
class Options(*options(OPTIMIZERS.values())):  # type: ignore[misc]
    """Keys of `train`.

    Attributes:
        optimizer: its name.
    """

    optimizer: str = one_of("adamw", *(name for name in OPTIMIZERS if name != "adamw"))


def build_optimizer(model: nn.Module, train: Any) -> Optimizer:
    """The optimizer that `train.optimizer` names."""
    optimizer: Optimizer = OPTIMIZERS[train.optimizer].build(model, train, train.learning_rate)
    return optimizer
