"""A mechanism as a module: it owns what the mechanism learns, and knows the moment in training."""

from typing import Any

import torch
from torch import Tensor, nn

from attention.core.alibi import alibi
from attention.core.arguments import check_flag, check_scale, check_size, check_window, shown
from attention.core.call import INFERENCE, CallSpec, Phase
from attention.core.errors import AttentionError
from attention.core.mechanism import Mechanism
from attention.core.registry import get
from attention.forms.chunked import RecurrentState
from attention.functional import attend

SEEDS = 2**62
"""Seeds of noise are drawn below this number."""


class Attention(nn.Module):
    """Mix values by a mechanism's weights, with its learned parameters and its noise.

    In training mode, noise is drawn anew at each call from torch's generator, as by `nn.Dropout`: `torch.manual_seed`
    repeats it, and activation checkpointing meets the same noise twice. In eval mode there is none, and schedules are
    at their end.

    Args:
        mechanism: a name, or an instance from `attention.get` where options are needed.
        n_head: number of query heads.
        head_dim: width of queries and keys per head.
        causal, window, scale, kernel: as for `attention.attend`.
        alibi: add ALiBi's slopes to the scores (`attention.alibi`), in place of the mechanism's own.

    Attributes:
        learned: the mechanism's parameters by name, at their initial values; empty where it learns nothing.
        progress: share of the training that is done, 0 to 1, for mechanisms with a schedule; you set it
            (`set_progress`).

    Raises:
        AttentionError: an argument is refused; the message says what would be right.
    """

    def __init__(
        self,
        mechanism: str | Mechanism,
        n_head: int,
        head_dim: int,
        *,
        causal: bool = True,
        window: int | None = None,
        scale: float | None = None,
        alibi: bool = False,
        kernel: str = "auto",
    ) -> None:
        super().__init__()
        check_size("n_head", n_head)
        check_size("head_dim", head_dim)
        check_flag("causal", causal)
        check_window(window)
        check_scale(scale)
        check_flag("alibi", alibi)
        self.mechanism = get(mechanism)
        self.n_head, self.head_dim = n_head, head_dim
        self.causal, self.window, self.scale, self.kernel = causal, window, scale, kernel
        self.alibi = alibi
        self.progress: float | None = None
        self.learned = nn.ParameterDict(
            {name: nn.Parameter(value) for name, value in self._initial_values().items()}
        )

    @torch.no_grad()
    def reset_parameters(self) -> None:
        """Set the learned parameters to their initial values."""
        for name, value in self._initial_values().items():
            self.learned[name].copy_(value)

    def phase(self) -> Phase:
        """The moment in training of the next call; draws a seed where the mechanism is noisy.

        Raises:
            AttentionError: the mechanism follows a schedule in training, and `progress` was never set.
        """
        if not (self.training and self.mechanism.follows_training):
            return INFERENCE
        if self.mechanism.follows_progress and self.progress is None:
            raise AttentionError(
                f"{self.mechanism.name} follows the progress of training: call attention.set_progress(model, share) "
                "at each step, from 0 to 1, or model.eval()"
            )
        progress = 1.0 if self.progress is None else self.progress
        return Phase(training=True, progress=progress, seed=torch.randint(SEEDS, ()))

    def spec(
        self,
        documents: Tensor | None = None,
        phase: Phase = INFERENCE,
        device: torch.device | None = None,
    ) -> CallSpec:
        """How queries on a device meet keys here: `attend`, `weights`, `row_stats` and `entropy` take its options."""
        return CallSpec(
            causal=self.causal,
            window=self.window,
            documents=documents,
            scale=self.scale,
            params=dict(self.learned.items()),
            phase=phase,
            slopes=alibi(self.n_head, device) if self.alibi else None,
        )

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        documents: Tensor | None = None,
        state: RecurrentState | None = None,
        phase: Phase | None = None,
        settled: bool = False,
    ) -> Tensor:
        """Mix value [B, S, Hk, Dv] by query [B, T, H, D] and key [B, S, Hk, D] to [B, T, H, Dv].

        Arguments and errors as for `attend`; a phase stands in for the module's own.
        """
        phase = self.phase() if phase is None else phase
        options: Any = self.spec(documents, phase, query.device).options
        return attend(
            query, key, value, self.mechanism, kernel=self.kernel, state=state, settled=settled, **options
        )

    def extra_repr(self) -> str:
        """The mechanism with its options, heads and mask."""
        parts = [f"{self.mechanism}", f"n_head={self.n_head}", f"head_dim={self.head_dim}"]
        parts += [] if self.causal else ["causal=False"]
        parts += [] if self.window is None else [f"window={self.window}"]
        parts += [] if self.scale is None else [f"scale={self.scale}"]
        parts += ["alibi=True"] if self.alibi else []
        return ", ".join(parts)

    def _initial_values(self) -> dict[str, Tensor]:
        return self.mechanism.initial_values(self.n_head, self.head_dim)


def set_progress(model: nn.Module, share: float) -> None:
    """Tell every `Attention` in a model which share of the training is done, 0 to 1.

    Raises:
        AttentionError: it is no share.
    """
    if isinstance(share, bool) or not isinstance(share, int | float) or not 0 <= share <= 1:
        raise AttentionError(f"progress must be between 0 and 1, got {shown(share)}")
    for module in model.modules():
        if isinstance(module, Attention):
            module.progress = float(share)
