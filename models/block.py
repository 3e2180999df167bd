"""The transformer block: pre-norm attention and MLP around a residual stream."""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention import INFERENCE, Mechanism, Phase, RecurrentState, attend
from models.cache import LayerCache, StateCache
from models.config import Architecture, LayerPlan
from models.norms import RMSNorm
from models.postops import post_ops
from models.rope import rotate


class Mixer(nn.Module):
    """One layer's mixing of values: the mechanism, its learned parameters and its window.

    A module of its own so that `models.trace` and quantisation studies can hook what goes in and comes out.
    """

    def __init__(self, plan: LayerPlan, n_head: int, head_dim: int, kernel: str) -> None:
        super().__init__()
        self.mechanism: Mechanism = plan.mechanism
        self.window = plan.window
        self.kernel = kernel
        initial = plan.mechanism.initial_values(n_head, head_dim)
        self.learned = nn.ParameterDict({name: nn.Parameter(value) for name, value in initial.items()})
        self.progress = 0.0
        self.seed: Tensor
        self.first_sequence: Tensor
        # No checkpoint holds them, so they must exist even where the model of a run is built on the meta device.
        for name in ("seed", "first_sequence"):
            self.register_buffer(name, torch.zeros((), dtype=torch.int64, device="cpu"), persistent=False)

    def advance(self, progress: float, seed: int, first_sequence: int = 0) -> None:
        """Say when in training the next call happens; arguments as of `GPT.advance`."""
        self.progress = progress
        self.seed.fill_(seed)
        self.first_sequence.fill_(first_sequence)

    @property
    def phase(self) -> Phase:
        """When a call happens, for mechanisms that ask."""
        if not (self.training and self.mechanism.follows_training):
            return INFERENCE
        return Phase(True, self.progress, self.seed, self.first_sequence)

    def arguments(self, documents: Tensor | None) -> dict[str, Any]:
        """The keyword arguments that `attend`, `weights` and `row_stats` need to see what this layer sees."""
        return {
            "causal": True,
            "window": self.window,
            "documents": documents,
            "scale": None,
            "params": dict(self.learned.items()),
        }

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        documents: Tensor | None,
        state: RecurrentState | None = None,
    ) -> Tensor:
        """Mix value [B, S, Hk, Dv] by query [B, T, H, D] and key [B, S, Hk, D] to [B, T, H, Dv].

        With a state, keys, values and documents are those of the T new positions.
        """
        return attend(
            query,
            key,
            value,
            self.mechanism,
            kernel=self.kernel,
            phase=self.phase,
            state=state,
            **self.arguments(documents),
        )


class Attention(nn.Module):
    """Projections to heads, optional QK-norm, rotation, the cache, the mixer, the post-ops, and the projection back.

    With differential attention the heads are maps: two key heads in a row share a value of twice the width, and the
    query heads that read them come in the same order. One call mixes all maps; the cache holds each value once.
    """

    def __init__(self, config: Architecture, plan: LayerPlan) -> None:
        super().__init__()
        self.head_dim, self.value_dim = config.head_dim, config.value_dim
        self.query = nn.Linear(config.d_model, config.n_head * config.head_dim, bias=False)
        self.key = nn.Linear(config.d_model, config.n_kv_head * config.head_dim, bias=False)
        self.value = nn.Linear(config.d_model, config.n_kv_head * config.head_dim, bias=False)
        self.output = nn.Linear(config.n_head * config.head_dim, config.d_model, bias=False)
        self.query_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(config.head_dim, config.norm_eps) if config.qk_norm else nn.Identity()
        self.mixer = Mixer(plan, config.n_head, config.head_dim, config.kernel)
        self.post_ops = post_ops(config, plan)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        documents: Tensor | None,
        cache: LayerCache | StateCache | None,
    ) -> Tensor:
        """From [B, T, d_model] to [B, T, d_model]; documents [B, S] covers the cached positions, too."""
        query = self.query_norm(self.query(x).unflatten(-1, (-1, self.head_dim)))
        key = self.key_norm(self.key(x).unflatten(-1, (-1, self.head_dim)))
        value = self.value(x).unflatten(-1, (-1, self.value_dim))
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        state = None
        if isinstance(cache, StateCache):
            state = cache.state
        elif cache is not None:
            key, value = cache.extend(key, value)
        if documents is not None:
            documents = documents[:, -key.shape[1] :]
        if value.shape[2] < key.shape[2]:
            value = value.repeat_interleave(key.shape[2] // value.shape[2], dim=2)
        heads = self.mixer(query, key, value, documents, state)
        for post_op in self.post_ops.values():
            heads = post_op(heads, x)
        return self.output(heads.flatten(-2))


class SwiGLU(nn.Module):
    """down(silu(gate(x)) * up(x)) (Shazeer, arXiv 2002.05202)."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.gate = nn.Linear(d_model, d_ff, bias=False)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        return self.down(functional.silu(self.gate(x)) * self.up(x))


class GELU(nn.Module):
    """down(gelu(up(x)))."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        return self.down(functional.gelu(self.up(x)))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, config: Architecture, plan: LayerPlan) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(config.d_model, config.norm_eps)
        self.attention = Attention(config, plan)
        self.mlp_norm = RMSNorm(config.d_model, config.norm_eps)
        self.mlp = {"swiglu": SwiGLU, "gelu": GELU}[config.mlp](config.d_model, config.d_ff)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        documents: Tensor | None = None,
        cache: LayerCache | StateCache | None = None,
    ) -> Tensor:
        """The residual stream [B, T, d_model] after this block; arguments as in `Attention`."""
        x = x + self.attention(self.attention_norm(x), rotation, documents, cache)
        return x + self.mlp(self.mlp_norm(x))
