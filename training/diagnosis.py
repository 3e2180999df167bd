"""Naming the cause of a loss or gradient that is not finite."""

import math
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager

import torch
from torch import Tensor, nn
from torch.distributed.tensor import DTensor
from torch.optim import Optimizer

from attention import Phase, row_stats
from models import GPT, AttentionCall, trace
from training.batches import Batch


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first of named tensors that holds an infinity or a NaN, as a phrase; None where all are finite."""
    for name, tensor in tensors:
        # A sum is ten times as fast as a look at each value, and never finite where one of them is not.
        if not math.isfinite(tensor.sum().item()) and not _finite(tensor):
            return f"{name} holds {_count(tensor)}"
    return None


def weights_of(model: nn.Module) -> Iterator[tuple[str, Tensor]]:
    """What a checkpoint has of a model, with names."""
    for name, tensor in model.state_dict().items():
        yield f"parameter {name}", local(tensor)


def moments_of(model: nn.Module, optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """What an optimizer remembers of each parameter, with names."""
    names = {id(parameter): name for name, parameter in model.named_parameters()}
    for parameter, state in optimizer.state.items():
        for kind, value in state.items():
            if isinstance(value, Tensor):
                yield f"the optimizer's {kind} of {names.get(id(parameter), 'a parameter')}", local(value)


def local(tensor: Tensor) -> Tensor:
    """This process's part of a tensor that may be sharded."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def number(value: Tensor) -> float:
    """A scalar tensor as a number, gathered where it is sharded."""
    return float(value.full_tensor() if isinstance(value, DTensor) else value)


@torch.no_grad()
def find_cause(
    model: GPT, batches: Iterable[tuple[Batch, Phase]], autocast: AbstractContextManager[None]
) -> str:
    """Where the first non-finite value of a step comes from: parameters, a layer of the forward pass, or a gradient.

    Args:
        model: plain, with the gradients of the step.
        batches: what the step was computed from, each with when it happens.
        autocast: the precision of training.

    Returns:
        One phrase, like "layer 3: softpick's output has 12 non-finite values (largest |score| 2.1e+38)".
    """
    if damage := not_finite(weights_of(model)):
        return damage
    with autocast:
        for batch, phase in batches:
            if cause := _forward_cause(model, batch, phase):
                return cause
    # The backward pass runs from the last layer to the first, so the last parameter is nearest to the cause.
    for name, parameter in reversed(list(model.named_parameters())):
        if parameter.grad is not None and not _finite(parameter.grad):
            return f"the gradient of {name} has {_count(parameter.grad)}; the forward pass is finite"
    return "the sum over processes and micro-batches; each part is finite"


def _forward_cause(model: GPT, batch: Batch, phase: Phase) -> str | None:
    causes: list[str] = []

    def attention(call: AttentionCall) -> None:
        if not causes and not _finite(call.output):
            largest = (
                row_stats(call.query, call.key, call.mechanism, **call.spec.options).max_score.max().item()
            )
            name = call.mechanism.name
            causes.append(
                f"layer {call.layer}: {name}'s output has {_count(call.output)} (largest |score| {largest:.2g})"
            )

    def hidden(layer: int, residual: Tensor) -> None:
        if not causes and not _finite(residual):
            where = "the embeddings have" if layer < 0 else f"layer {layer}: the residual stream has"
            causes.append(f"{where} {_count(residual)}")

    with trace(model, attention=attention, hidden=hidden):
        losses = model(batch["tokens"], targets=batch["targets"], documents=batch["documents"], phase=phase)
    if not causes and not _finite(losses):
        causes.append(
            f"the loss of {int((~torch.isfinite(losses)).sum())} tokens is not finite; all layers are"
        )
    return causes[0] if causes else None


def _finite(value: Tensor) -> bool:
    return bool(torch.isfinite(value).all())


def _count(value: Tensor) -> str:
    return f"{int((~torch.isfinite(value)).sum())} non-finite values"
