"""Muon (Jordan et al., 2024; Liu et al., arXiv 2502.16982) for the matrices of linear layers, AdamW for the rest.

Its updates are scaled to the size of AdamW's, so that both take one weight decay and, but for a factor, one learning
rate.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn
from torch.optim import AdamW, Muon, Optimizer

from common.ranges import ranged
from training.optimizers import adamw
from training.optimizers.groups import parameter_groups
from training.wide_muon import WideMuon

MEMORY = ({"momentum_buffer"}, *adamw.MEMORY)


@dataclass
class Options(adamw.Options):
    """Keys of `train`, with those of AdamW.

    Attributes:
        muon_momentum: decay of Muon's mean of gradients.
        muon_rate: learning rate of Muon's matrices, as a multiple of `learning_rate`, which is that of all else.
    """

    muon_momentum: float = ranged(0.95, 0.0, 1 - 2**-24)
    muon_rate: float = ranged(1.0, 0.0, 1e6, above=True)


class MuonWithAdamW(Optimizer):
    """Two optimizers with one state and one list of groups, those of Muon first.

    The groups have one learning rate; `rate` times that is Muon's.
    """

    def __init__(self, muon: Muon, rest: AdamW, rate: float = 1.0) -> None:
        self.parts: tuple[Optimizer, ...] = (muon, rest)
        self.rate = rate
        self.counts = [len(part.param_groups) for part in self.parts]
        super().__init__([*muon.param_groups, *rest.param_groups], {})
        self._share()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        self._share()

    def _share(self) -> None:
        """Let both parts see this optimizer's groups and state, which loading a checkpoint replaces."""
        start = 0
        for part, count in zip(self.parts, self.counts, strict=True):
            part.param_groups = self.param_groups[start : start + count]
            part.state = self.state
            start += count

    def step(self, closure: Any = None) -> None:  # type: ignore[override]
        """Take one step of both."""
        muon, rest = self.parts
        with _multiplied(muon.param_groups, self.rate):
            muon.step()
        rest.step()


@contextmanager
def _multiplied(groups: list[dict[str, Any]], factor: float) -> Iterator[None]:
    """While open, the groups have so many times their learning rate."""
    rates = [group["lr"] for group in groups]
    try:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = factor * rate
        yield
    finally:
        for group, rate in zip(groups, rates, strict=True):
            group["lr"] = rate


def build(model: nn.Module, options: Options, learning_rate: float) -> MuonWithAdamW:
    """Muon over linear layers but the head, AdamW over embeddings, the head and everything else."""
    hidden = _hidden(model)
    known = set(map(id, hidden))
    rest = parameter_groups(model, options.weight_decay)
    for group in rest:
        group["params"] = [parameter for parameter in group["params"] if id(parameter) not in known]
    muon = WideMuon(
        hidden,
        lr=learning_rate,
        weight_decay=options.weight_decay,
        momentum=options.muon_momentum,
    )
    others = AdamW(
        [group for group in rest if group["params"]],
        lr=learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.adam_epsilon,
        fused=True,
    )
    return MuonWithAdamW(muon, others, options.muon_rate)


def _hidden(model: nn.Module) -> list[Tensor]:
    return [
        module.weight
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and name.rpartition(".")[2] != "head"
    ]
