"""The transformer block: pre-norm attention and MLP around a residual stream."""

from collections.abc import Callable
from dataclasses import dataclass, replace

from torch import Tensor, nn
from torch.nn import functional

from attention import INFERENCE, CallSpec, Mechanism, Phase, RecurrentState, attend
from models.cache import LayerCache, StateCache
from models.norms import RMSNorm
from models.plan import LayerPlan, Plan
from models.postops import post_ops
from models.recompute import recomputed
from models.rope import rotate


class Mixer(nn.Module):
    """One layer's mixing of values: the mechanism, its learned parameters and its window.

    A module of its own so that `models.tracing` and quantisation studies can hook what goes in and comes out.
    """

    def __init__(self, plan: Plan, layer: LayerPlan) -> None:
        super().__init__()
        self.mechanism: Mechanism = layer.mechanism
        self.window = layer.window
        self.kernel = plan.kernel
        initial = layer.mechanism.initial_values(plan.n_head, plan.head_dim)
        self.learned = nn.ParameterDict({name: nn.Parameter(value) for name, value in initial.items()})
        self.depth = layer.depth

    def own(self, phase: Phase) -> Phase:
        """The phase as this layer meets it: with noise of its own, and inference where its mechanism does not ask."""
        if not (phase.training and self.mechanism.follows_training):
            return INFERENCE
        return phase if phase.seed is None else replace(phase, seed=phase.seed << 20 | self.depth)

    def spec(self, documents: Tensor | None, phase: Phase = INFERENCE) -> CallSpec:
        """How this layer's queries meet its keys: `attend`, `weights` and `row_stats` take its options."""
        params = dict(self.learned.items())
        return CallSpec(window=self.window, documents=documents, params=params, phase=phase)

    def forward(
        self,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        documents: Tensor | None,
        state: RecurrentState | None = None,
        phase: Phase = INFERENCE,
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
            state=state,
            **self.spec(documents, self.own(phase)).options,
        )


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
        key: [B, S, Hk, D]; S > T with a cache.
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
        return cls(mixer.depth, query, key, value, output, mixer.mechanism, mixer.spec(documents))


Observer = Callable[[AttentionCall], object]
"""Is told of each layer's attention during a forward pass."""


class Attention(nn.Module):
    """Projections to heads, optional QK-norm, rotation, the cache, the mixer, the post-ops, and the projection back.

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
        self.query_norm = RMSNorm(plan.head_dim, plan.norm_eps) if plan.qk_norm else nn.Identity()
        self.key_norm = RMSNorm(plan.head_dim, plan.norm_eps) if plan.qk_norm else nn.Identity()
        self.mixer = Mixer(plan, layer)
        self.post_ops = post_ops(plan, layer)

    def forward(
        self,
        x: Tensor,
        rotation: tuple[Tensor, Tensor] | None,
        documents: Tensor | None,
        cache: LayerCache | StateCache | None,
        phase: Phase,
        observe: Observer | None,
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
        heads = self.mixer(query, key, value, documents, state, phase)
        if observe is not None:
            observe(AttentionCall.of(self.mixer, query, key, value, heads, documents))
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

    def __init__(self, plan: Plan, layer: LayerPlan) -> None:
        super().__init__()
        self.attention_norm = RMSNorm(plan.d_model, plan.norm_eps)
        self.attention = Attention(plan, layer)
        self.mlp_norm = RMSNorm(plan.d_model, plan.norm_eps)
        self.mlp = {"swiglu": SwiGLU, "gelu": GELU}[plan.mlp](plan.d_model, plan.d_ff)

    def forward(
        self,
        x: Tensor,
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
            return recomputed(self.forward, x, rotation, documents, cache, phase, observe)
        x = x + self.attention(self.attention_norm(x), rotation, documents, cache, phase, observe)
        return x + (recomputed(self._feed, x) if checkpointing == "selective" else self._feed(x))

    def _feed(self, x: Tensor) -> Tensor:
        return self.mlp(self.mlp_norm(x))
