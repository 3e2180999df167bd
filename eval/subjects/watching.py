"""The attention of Hugging Face models, computed and told by `attention.transformers`.

A model computes with its own attention until it is watched. Then it runs `zoo:auto`, its own formula on the kernels of
this project, which is refused where a model asks for more than that formula has. A model that runs a mechanism of this
project anyway is watched as it is.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from torch import Tensor, nn

from attention import CallSpec
from attention.core.masks import visibility
from attention.transformers import AUTO, LayerCall, observed, register
from models import AttentionCall, ModelError

Place = Callable[[nn.Module], int]
"""The number of the layer that an attention module stands in."""

Watcher = Callable[[nn.Module, AttentionCall], Tensor | None]
"""Is told of each call and of the module that made it; a tensor that it returns takes the place of the output."""


@contextmanager
def watched(model: Any, place: Place, watcher: Watcher) -> Iterator[None]:
    """While open, every forward pass of the model tells the watcher of its attention.

    Raises:
        AttentionError: the model does not let its attention be replaced, or asks for what is not served.
    """

    def report(call: LayerCall, output: Tensor) -> Tensor | None:
        spec = _plain(call)
        found = AttentionCall(
            place(call.module), call.query, call.key, call.value, output, call.mechanism, spec
        )
        return watcher(call.module, found)

    usual = model.config._attn_implementation
    register()
    if not runs_ours(model):
        model.set_attn_implementation(AUTO)
    try:
        with observed(report):
            yield
    finally:
        if model.config._attn_implementation != usual:
            model.set_attn_implementation(usual)


def runs_ours(model: Any) -> bool:
    """Whether a model attends by a mechanism of this project."""
    return str(model.config._attn_implementation).startswith("zoo:")


def _plain(call: LayerCall) -> CallSpec:
    """How the queries of a call meet its keys, as a causal mask with a window, which can be taken apart by rows.

    Raises:
        ModelError: the mask is another.
    """
    queries, keys, spec = call.query.shape[1], call.key.shape[1], call.spec
    if spec.documents is not None and bool((spec.documents == spec.documents[:, :1]).all()):
        spec = replace(spec, documents=None)
    if spec.intervals is None:
        if spec.causal and spec.documents is None:
            return spec
    else:
        first, last, _ = spec.intervals.unbind(-1)
        window = int((last - first).max())
        expected = visibility(queries, keys, window=window, device=first.device)
        if bool((first == expected.first).all() and (last == expected.last).all()):
            return replace(spec, causal=True, intervals=None, window=window if window < keys else None)
    name = type(call.module).__name__
    raise ModelError(
        f"{name} asks for a mask other than causal with a window, which analyses cannot take apart"
    )
