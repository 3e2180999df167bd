"""Watching a model at work: what each layer's attention is given and gives, and the residual stream."""

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from torch import Tensor, nn

from models.block import AttentionCall, Mixer
from models.errors import ModelError
from models.gpt import GPT


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
        query, key, value, documents, state, *_ = inputs
        if state is not None:
            raise ModelError(
                f"layer {layer} ({mixer.mechanism.name}) keeps a state instead of its keys; trace it without a cache"
            )
        return report(AttentionCall.of(mixer, query, key, value, output, documents))

    return hook
