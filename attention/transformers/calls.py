"""A layer's attention as transformers asks for it, read as a call of this package."""

import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from attention.core.call import INFERENCE, CallSpec
from attention.core.errors import AttentionError
from attention.core.mechanism import Mechanism
from attention.core.registry import get
from attention.forms.chunked import Chunked
from attention.functional import attend
from attention.module import Attention
from attention.transformers.masks import documents_of, intervals_of
from attention.transformers.names import AUTO, implementation, mechanism_of

CHILD = "zoo"
"""The name of the `Attention` that a layer holds for what its mechanism learns and must know of training."""

IGNORED = {
    "output_hidden_states",
    "output_router_logits",
    "num_items_in_batch",
    "position_ids",
    "use_cache",
    "return_dict",
    "cu_seq_lens_q",
    "cu_seq_lens_k",
    "max_length_q",
    "max_length_k",
    "seq_idx",
    "position_embeddings",
    "deterministic",
    "logits_to_keep",
}
"""Arguments that say nothing of what attention computes, or say what the mask says as well."""

MEANINGS = {
    "position_bias": "adds a position bias to scores",
    "output_attentions": "is asked for its weights; attention.weights has them",
    "head_mask": "masks heads",
    "indices": "selects keys",
    "block_indices": "selects blocks of keys",
    "cache": "has a paged cache",
    "sinks": "has sinks of a kind of its own",
}

SOFTMAX, SINK = get("softmax"), get("softmax_sink")
"""The formulas of models of their own."""

Report = Callable[["LayerCall", Tensor], Tensor | None]
_reports: list[Report] = []


@dataclass(frozen=True)
class LayerCall:
    """One layer's attention in one forward pass: `attend(query, key, value, mechanism, **spec.options)`.

    Attributes:
        module: the layer that asked.
        query: [B, T, H, D]; key: [B, S, Hk, D]; value: [B, S, Hk, Dv].
        mechanism: how it attends.
        spec: how its queries meet its keys.
    """

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    mechanism: Mechanism
    spec: CallSpec

    @property
    def layer(self) -> int:
        """The number of the layer in the model. AttentionError: it does not know it."""
        layer = getattr(self.module, "layer_idx", None)
        if not isinstance(layer, int):
            raise AttentionError(f"{type(self.module).__name__} does not know which layer it is (layer_idx)")
        return layer


def brings(layer: nn.Module, mechanism: Mechanism) -> bool:
    """Whether what a mechanism learns is the layer's own, as the sinks of a model that was trained with them."""
    return mechanism == SINK and isinstance(getattr(layer, "sinks", None), nn.Parameter)


def attention_function(name: str) -> Callable[..., tuple[Tensor, None]]:
    """Return what transformers calls for the implementation of this name.

    Raises:
        AttentionError: no such mechanism or option.
    """
    mechanism = mechanism_of(name)

    def forward(
        module: nn.Module,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        attention_mask: Tensor | None,
        **asked: Any,
    ) -> tuple[Tensor, None]:
        call = read(mechanism, module, query, key, value, attention_mask, **asked)
        out = attend(call.query, call.key, call.value, call.mechanism, **call.spec.options)
        for report in _reports:
            replacement = report(call, out)
            out = out if replacement is None else replacement
        return out, None

    return forward


@contextmanager
def observed(report: Report) -> Iterator[None]:
    """While open, `report(call, output)` is told of every layer's attention by an implementation of this package.

    Where it returns a tensor, that takes the place of the output [B, T, H, Dv].
    """
    _reports.append(report)
    try:
        yield
    finally:
        _reports.remove(report)


def read(
    mechanism: Mechanism | None,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    is_causal: bool | None = None,
    softcap: float | None = None,
    s_aux: Tensor | None = None,
    **others: Any,
) -> LayerCall:
    """A layer's attention as a call of this package.

    Args:
        mechanism: what takes the place of the model's own formula, None for that formula.
        module: the layer.
        query: [B, H, T, D]; key: [B, Hk, S, D]; value: [B, Hk, S, Dv].
        mask, scaling, dropout, sliding_window, is_causal, softcap, s_aux: as transformers gives them.
        others: refused where they say something.

    Raises:
        AttentionError: something is asked for that cannot be served; the message says what.
    """
    owner = type(module).__name__
    if dropout:
        raise AttentionError(
            f"{owner} drops {dropout:g} of its weights in training, which no kernel here does: set the config's "
            "attention dropout to 0, or call model.eval()"
        )
    for option, given in others.items():
        if option not in IGNORED and given is not None and given is not False:
            meaning = MEANINGS.get(option, "asks for what is not known here")
            raise AttentionError(f"{owner} {meaning} ({option}), which no mechanism here can serve")
    device = query.device.type
    if torch.is_autocast_enabled(device):
        dtype = torch.get_autocast_dtype(device)
        query, key, value = (tensor.to(dtype) for tensor in (query, key, value))
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    mechanism, options = _resolved(mechanism, module, s_aux)
    usual = scaling is None or math.isclose(scaling, query.shape[-1] ** -0.5)
    options |= {"scale": None if usual else scaling, "softcap": softcap}
    options |= _masked(mechanism, module, query, key, mask, sliding_window, is_causal)
    return LayerCall(module, query, key, value, mechanism, CallSpec(**options))


def _resolved(
    mechanism: Mechanism | None, module: nn.Module, sinks: Tensor | None
) -> tuple[Mechanism, dict[str, Any]]:
    """The mechanism, and with what is learned and when it is called."""
    owner, own = type(module).__name__, getattr(module, CHILD, None)
    if sinks is not None:
        if mechanism not in (None, SINK):
            assert mechanism is not None
            raise AttentionError(
                f"{owner} has learned sinks (s_aux), for which {implementation(mechanism)} has no place; take {AUTO!r} "
                f"or {implementation(SINK)!r}"
            )
        return SINK, {"params": {"sink": sinks}, "phase": INFERENCE}
    if mechanism is None:
        return SOFTMAX, {"params": None, "phase": INFERENCE}
    if isinstance(own, Attention) and own.mechanism == mechanism:
        return mechanism, {"params": dict(own.learned.items()), "phase": own.phase()}
    if mechanism.initial_values(1, 1) or (mechanism.follows_training and module.training):
        raise AttentionError(
            f"{owner} holds nothing of {mechanism.name}, which learns or draws noise: name it when the model is made "
            f"(attn_implementation={implementation(mechanism)!r}), or by model.set_attn_implementation"
        )
    return mechanism, {"params": None, "phase": INFERENCE}


def _masked(
    mechanism: Mechanism,
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    mask: Tensor | None,
    window: int | None,
    is_causal: bool | None,
) -> dict[str, Any]:
    """How queries meet keys; a mask of None is causal, or none at all where the layer is not."""
    owner, queries, keys = type(module).__name__, query.shape[1], key.shape[1]
    if mask is None:
        causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
        if causal and queries not in (1, keys):
            raise AttentionError(f"{owner} passes no mask for {queries} queries and {keys} keys")
        if window is not None and window < keys:
            raise AttentionError(f"{owner} has a window of {window} keys, and passes no mask for it")
        return {"causal": bool(causal) and queries == keys}
    intervals = intervals_of(mask, queries, keys)
    if not isinstance(mechanism, Chunked):
        return {"causal": False, "intervals": intervals}
    documents = documents_of(intervals, keys)
    if documents is None:
        raise AttentionError(
            f"{owner} masks by a window, or has a cache longer than what it holds, and {mechanism.name} keeps a state "
            "of all earlier keys: neither can be served"
        )
    return {"documents": documents}
