"""The transformer block: pre-norm attention and MLP around a residual stream."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn

import attention
from attention import INFERENCE, CallSpec, Mechanism, Phase, RecurrentState
from models.cache import LayerCache, StateCache
from models.gradients import products
from models.mlps import MLPS
from models.norms import norm
from models.plan import LayerPlan, Plan
from models.postops import post_ops
from models.recompute import recomputed
from models.rope import rotate
from models.value_embedding import value_embedding


class Mixer(attention.Attention):
    """One layer's mixing of values: the mechanism, its learned parameters and its window.

    A module of its own so that `models.tracing` and quantisation studies can hook what goes in and comes out.
    """

    def __init__(self, plan: Plan, layer: LayerPlan) -> None:
        super().__init__(
            layer.mechanism,
            plan.n_head,
            plan.head_dim,
            window=layer.window,
            alibi=plan.position == "alibi",
            kernel=plan.kernel,
        )
        self.depth = layer.depth

    def own(self, phase: Phase) -> Phase:
        """The phase as this layer meets it: with noise of its own, and inference where its mechanism does not ask."""
        if not (phase.training and self.mechanism.follows_training):
            return INFERENCE
        return phase if phase.seed is None else replace(phase, seed=phase.seed << 20 | self.depth)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        documents: Tensor | None = None,
        state: RecurrentState | None = None,
        phase: Phase | None = INFERENCE,
        settled: bool = False,
    ) -> Tensor:
        """Mix value [B, S, Hk, Dv] by query [B, T, H, D] and key [B, S, Hk, D] to [B, T, H, Dv].

        With a state, keys, values and documents are those of the T new positions.
        """
        return super().forward(query, key, value, documents, state, self.own(phase or INFERENCE), settled)


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention in one forward pass.

    `attention.row_stats(call.query, call.key, call.mechanism, **call.spec.options)` sees what the layer saw, and
    so does `attention.weights`. With a cache the tensors are valid until the next forward pass only.

    What is reported is the mechanism's own work, before any post-op of the block. Each map of differential attention is
    therefore a head of its own, with the value that it shares with its partner: `output = weights @ value` holds, and
    neither λ nor the difference is in it.

    Attributes:
        layer: 0-based.
        query: [B, T, H, D], after RoPE and QK-norm.
        key: [B, S, Hk, D]; S > T with a cache, which keeps keys as `Mechanism.settled` makes them.
        value: [B, S, Hk, Dv]; Dv = D, or 2 D with differential attention.
        output: [B, T, H, Dv], before output norm, gate, difference of maps and output projection.
        mechanism: how the layer attends.
        spec: how its queries met its keys, in inference.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    mechanism: Mechanism
    spec: CallSpec

    @classmethod
    def of(
        cls, mixer: Mixer, query: Tensor, key: Tensor, value: Tensor, output: Tensor, documents: Tensor | None
    ) -> "AttentionCall":
        """The call of a layer's mixer with what it was given and gave."""
        spec = mixer.spec(documents, device=query.device)
        return cls(mixer.depth, query, key, value, output, mixer.mechanism, spec)


Observer = Callable[[AttentionCall], object]
"""Is told of each layer's attention during a forward pass."""


class Attention(nn.Module):
    """Projections to heads, QK-norm, value embedding, rotation, cache, mixer, post-ops, and the projection back.

    All but projections and mixer are options of the model.

    With differential attention the heads are maps: two key heads in a row share a value of twice the width, and the
    query heads that read them come in the same order. One call mixes all maps; the cache holds each value once.
    """

    def __init__(self, plan: Plan, layer: LayerPlan) -> None:
        super().__init__()
        self.head_dim, self.value_dim = plan.head_dim, plan.value_dim
        self.query = nn.Linear(plan.d_model, plan.n_head * plan.head_dim, bias=False)
        self.key = nn.Linear(plan.d_model, plan.n_kv_head * plan.head_dim, bias=False)
        self.value = nn.Linear(plan.d_model, plan.n_kv_head * plan.head_dim, bias=False)
        self.output = nn.Linear(plan.n_head * plan.head_dim, plan.d_model, bias=False)
        self.query_norm = norm(plan, plan.head_dim) if plan.qk_norm else nn.Identity()
        self.key_norm = norm(plan, plan.head_dim) if plan.qk_norm else nn.Identity()
        self.query_gain: nn.Parameter | None = None
        if plan.qk_gain is not None:
            self.query_gain = nn.Parameter(torch.full((plan.n_head, 1), plan.qk_gain))
        self.value_embedding = value_embedding(plan, layer)
        self.mixer = Mixer(plan, layer)
        self.post_ops = post_ops(plan, layer)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        documents: Tensor | None,
        cache: LayerCache | StateCache | None,
        phase: Phase,
        observe: Observer | None,
    ) -> Tensor:
        """From [B, T, d_model] of tokens [B, T] to [B, T, d_model]; documents [B, S] covers the cached ones, too."""
        query, key, value = products(x, self.query, self.key, self.value)
        query = self.query_norm(query.unflatten(-1, (-1, self.head_dim)))
        key = self.key_norm(key.unflatten(-1, (-1, self.head_dim)))
        value = value.unflatten(-1, (-1, self.value_dim))
        if self.query_gain is not None:
            query = query * self.query_gain.to(query.dtype)
        if self.value_embedding is not None:
            value = self.value_embedding(value, tokens, x)
        if rotation is not None:
            query, key = rotate(query, rotation), rotate(key, rotation)
        state = None
        if isinstance(cache, StateCache):
            state = cache.state
        elif cache is not None:
            key, value = cache.extend(self.mixer.mechanism.settled(key), value)
        if documents is not None:
            documents = documents[:, -key.shape[1] :]
        if value.shape[2] < key.shape[2]:
            value = value.repeat_interleave(key.shape[2] // value.shape[2], dim=2)
        heads = self.mixer(query, key, value, documents, state, phase, isinstance(cache, LayerCache))
        if observe is not None:
            observe(AttentionCall.of(self.mixer, query, key, value, heads, documents))
        for post_op in self.post_ops.values():
            heads = post_op(heads, x)
        return self.output(heads.flatten(-2))


class Block(nn.Module):
    """x + attention(norm(x)), then x + mlp(norm(x))."""

    def __init__(self, plan: Plan, layer: LayerPlan) -> None:
        super().__init__()
        self.attention_norm = norm(plan, plan.d_model)
        self.attention = Attention(plan, layer)
        self.mlp_norm = norm(plan, plan.d_model)
        self.mlp = MLPS[plan.mlp](plan.d_model, plan.d_ff)

    def forward(
        self,
        x: Tensor,
        tokens: Tensor,
        rotation: tuple[Tensor, Tensor] | None = None,
        documents: Tensor | None = None,
        cache: LayerCache | StateCache | None = None,
        phase: Phase = INFERENCE,
        observe: Observer | None = None,
        checkpointing: str = "none",
    ) -> Tensor:
        """The residual stream [B, T, d_model] after this block.

        `checkpointing` is one of those of `models.recompute`; other arguments as in `Attention`.
        """
        if checkpointing == "full":
            return recomputed(self.forward, x, tokens, rotation, documents, cache, phase, observe)
        x = x + self.attention(self.attention_norm(x), tokens, rotation, documents, cache, phase, observe)
        return x + (recomputed(self._feed, x) if checkpointing == "selective" else self._feed(x))

    def _feed(self, x: Tensor) -> Tensor:
        return self.mlp(self.mlp_norm(x))
