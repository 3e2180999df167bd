"""Watching a model at work: what each layer's attention is given and gives, and the residual stream."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any

from torch import Tensor, nn

from attention import Mechanism
from models.block import Mixer
from models.errors import ModelError
from models.gpt import GPT


@dataclass(frozen=True)
class AttentionCall:
    """One layer's attention in one forward pass.

    `attention.row_stats(call.query, call.key, call.mechanism, **call.arguments)` sees what the layer saw, and
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
        arguments: causal, window, documents, scale, params.
    """

    layer: int
    query: Tensor
    key: Tensor
    value: Tensor
    output: Tensor
    mechanism: Mechanism
    arguments: dict[str, Any]


@contextmanager
def trace(
    model: GPT,
    *,
    attention: Callable[[AttentionCall], Tensor | None] | None = None,
    hidden: Callable[[int, Tensor], None] | None = None,
) -> Iterator[None]:
    """While open, every forward pass of `model` calls back; nothing is stored, and only a returned tensor changes it.

    Args:
        model: not compiled and not wrapped, so that the hooks run.
        attention: called once per layer, in order, after the layer's attention; a tensor that it returns takes the
            place of the attention's output.
        hidden: called with (layer, residual stream [B, T, d_model]): -1 and the embeddings, then each layer
            and the stream after its block.

    Raises:
        ModelError: `model` is compiled or wrapped.
    """
    if not isinstance(model, GPT) or model._compiled_call_impl is not None:
        raise ModelError(f"trace needs the plain GPT, unwrapped and not compiled, got {type(model).__name__}")
    with ExitStack() as hooks:
        if hidden is not None:
            for index, module in enumerate([model.embedding, *model.layers], start=-1):
                hooks.callback(module.register_forward_hook(_hidden_hook(hidden, index)).remove)
        if attention is not None:
            mixers = (module for module in model.modules() if isinstance(module, Mixer))
            for index, mixer in enumerate(mixers):
                hooks.callback(mixer.register_forward_hook(_attention_hook(attention, index)).remove)
        yield


def _hidden_hook(report: Callable[[int, Tensor], None], layer: int) -> Callable[..., None]:
    def hook(module: nn.Module, inputs: tuple[Any, ...], output: Tensor) -> None:
        report(layer, output)

    return hook


def _attention_hook(
    report: Callable[[AttentionCall], Tensor | None], layer: int
) -> Callable[..., Tensor | None]:
    def hook(mixer: Mixer, inputs: tuple[Any, ...], output: Tensor) -> Tensor | None:
        query, key, value, documents, state = inputs
        if state is not None:
            raise ModelError(
                f"layer {layer} ({mixer.mechanism.name}) keeps a state instead of its keys; trace it without a cache"
            )
        arguments = mixer.arguments(documents)
        return report(AttentionCall(layer, query, key, value, output, mixer.mechanism, arguments))

    return hook
