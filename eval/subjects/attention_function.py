"""The attention of Hugging Face models, as calls of `attention.attend` that can be watched and replaced.

A model computes with its own attention until it is watched. Then it is switched to an attention function registered
with transformers that calls `attend` with the mechanism that the model asks for (softmax, with learned sinks
`softmax_sink`) and reports what it was given. Registering the function alone would lose the mask in silence
(transformers builds none for implementations that it does not know), so a mask function is registered with it. It
reduces the mask, some rows at a time, to the interval of keys that each query sees, and every such mask that arrives is
compared with the one that `attend` applies; a [T, T] tensor is never held.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface
from transformers.masking_utils import sdpa_mask

from attention import CallSpec, Mechanism, attend
from attention import get as mechanism
from attention.core.masks import visibility
from models import ModelError

IMPLEMENTATION = "attention_zoo"
REFUSED = {
    "position_bias": "adds a position bias",
    "head_mask": "masks heads",
    "indices": "selects keys",
    "block_indices": "selects blocks of keys",
}
"""Requests of some models to an attention function that cannot be served."""

SINKS = ("s_aux", "sinks")
"""Names by which models hand over learned sinks [H]: logits that take weight and have no value."""

MASK_ENTRIES = 2**22
"""Entries of a mask that are looked at at once."""


@dataclass(frozen=True)
class Seen:
    """What the attention function was given and gave, in the layout of `attention.attend`."""

    module: nn.Module
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    mechanism: Mechanism
    spec: CallSpec


Watcher = Callable[[Seen], Tensor | None]
"""Is told of each call; a tensor that it returns takes the place of the output."""

_watcher: Watcher | None = None


@contextmanager
def watched(model: Any, watcher: Watcher) -> Iterator[None]:
    """While open, the model attends by `attend` and tells the watcher.

    Raises:
        ModelError: the model does not let its attention be replaced.
    """
    global _watcher
    usual = model.config._attn_implementation
    model.set_attn_implementation(IMPLEMENTATION)
    if model.config._attn_implementation != IMPLEMENTATION:
        raise ModelError(
            f"{type(model).__name__} does not let its attention be replaced, so it cannot be traced"
        )
    _watcher = watcher
    try:
        yield
    finally:
        _watcher = None
        model.set_attn_implementation(usual)


def attention_function(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    *,
    scaling: float | None = None,
    dropout: float = 0.0,
    sliding_window: int | None = None,
    softcap: float | None = None,
    is_causal: bool | None = None,
    **others: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it: query [B, H, T, D], key and value [B, Hk, S, D] to [B, T, H, D].

    Raises:
        ModelError: the model asks for what causal attention with a window and learned sinks is not.
    """
    name = type(module).__name__
    for option, meaning in REFUSED.items():
        if others.get(option) is not None:
            raise ModelError(f"{name} {meaning} ({option}), which the attention trace cannot serve")
    if dropout:
        raise ModelError(f"{name} applies dropout {dropout}; put the model in eval mode")
    if not (getattr(module, "is_causal", True) if is_causal is None else is_causal):
        raise ModelError(f"{name} is not causal, which the attention trace cannot serve")
    _check_mask(name, attention_mask, query.shape[2], key.shape[2], sliding_window)
    kind, params = mechanism("softmax"), None
    for option in SINKS:
        if (sinks := others.get(option)) is not None:
            kind, params = mechanism("softmax_sink"), {"sink": sinks.detach()}
    spec = CallSpec(window=sliding_window, scale=scaling, params=params, softcap=softcap)
    query, key, value = (tensor.transpose(1, 2) for tensor in (query, key, value))
    output = attend(query, key, value, kind, **spec.options)
    if _watcher is not None:
        replacement = _watcher(Seen(module, query, key, value, output, kind, spec))
        output = output if replacement is None else replacement
    return output, None


def interval_mask(
    batch_size: int, q_length: int, kv_length: int, q_offset: int = 0, **options: Any
) -> Tensor:
    """A mask as transformers asks for it, as the intervals of visible keys: int64 [B, 1, T, 2], first and last + 1.

    Raises:
        ModelError: some query sees keys that are no interval.
    """
    options["allow_is_causal_skip"] = False
    column = torch.arange(kv_length, device=options.get("device", "cpu"))
    height = max(1, MASK_ENTRIES // (batch_size * kv_length))
    intervals = []
    for start in range(0, q_length, height):
        rows = min(height, q_length - start)
        mask = sdpa_mask(batch_size, rows, kv_length, q_offset + start, **options)
        assert mask is not None
        first = mask.to(torch.uint8).argmax(-1)
        last = first + mask.sum(-1)
        if not torch.equal(mask, (column >= first[..., None]) & (column < last[..., None])):
            raise ModelError("the model masks keys amid visible ones, which the attention trace cannot serve")
        intervals.append(torch.stack([first, last], -1))
    return torch.cat(intervals, 2)


def _check_mask(name: str, mask: Tensor | None, queries: int, keys: int, window: int | None) -> None:
    """Refuse any mask that is not the causal one with this window; None stands for the causal one."""
    if mask is None:
        if window is None or window >= keys:
            return
        raise ModelError(f"{name} has a window of {window} keys but passes no mask for it")
    expected = visibility(queries, keys, window=window, device=mask.device)
    interval = torch.stack([expected.first, expected.last], -1)
    if (
        mask.dtype != interval.dtype
        or mask.shape[-2:] != interval.shape[-2:]
        or not bool((mask == interval).all())
    ):
        raise ModelError(
            f"{name} asks for a mask other than causal with a window, which the trace cannot serve"
        )


AttentionInterface.register(IMPLEMENTATION, attention_function)
AttentionMaskInterface.register(IMPLEMENTATION, interval_mask)
