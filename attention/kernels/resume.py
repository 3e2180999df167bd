"""A text that goes on where an earlier call left it: the state of that call, and the positions that are new."""

from dataclasses import replace

import torch
from torch import Tensor

from attention.core.arguments import check_tensors
from attention.core.call import CallSpec
from attention.core.inputs import prepare
from attention.core.mechanism import Mechanism
from attention.forms.chunked import RecurrentState
from attention.kernels import chunked, dispatch


@torch.compiler.disable(reason="a state has lengths of its own; the model around it compiles")
def resume(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    mechanism: Mechanism,
    spec: CallSpec,
    kernel: str,
    state: RecurrentState,
) -> Tensor:
    """Outputs of the new positions [B, T, H, Dv]; the state moves on.

    Raises:
        AttentionError: the call cannot be served; the state is then as it was.
    """
    check_tensors(query, key, value)
    longer = state.copy()
    key, value, documents = longer.extend(mechanism, key, value, spec)
    inputs = prepare(query, key, value, mechanism, replace(spec, documents=documents))
    dispatch.choose(kernel, inputs)
    out = chunked.advance(inputs, longer)
    state.become(longer)
    return out
