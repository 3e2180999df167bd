"""Naming the cause of a loss or gradient that is not finite."""

import math
from collections.abc import Iterable, Iterator, Mapping

import torch
from accelerate.utils import gather_object
from torch import Tensor
from torch.optim import Optimizer

from attention import Phase, row_stats
from models import GPT, AttentionCall, ModelError, trace
from training.batches import Batch
from training.engine import Engine
from training.launch import agreed
from training.sharding import local

ADVICE = "try a lower train.learning_rate, a train.clip or another precision under another name="


@torch.no_grad()
def not_finite(tensors: Iterable[tuple[str, Tensor]]) -> str | None:
    """The first of named tensors that holds an infinity or a NaN, as a phrase; None where all are finite."""
    for name, tensor in tensors:
        # A sum is ten times as fast as a look at each value, and never finite where one of them is not.
        if not math.isfinite(tensor.sum().item()) and not _finite(tensor):
            return f"{name} holds {_count(tensor)}"
    return None


def weights_of(parameters: Mapping[str, Tensor]) -> Iterator[tuple[str, Tensor]]:
    """This process's part of each parameter, with names."""
    for name, tensor in parameters.items():
        yield f"parameter {name}", local(tensor)


def moments_of(parameters: Mapping[str, Tensor], optimizer: Optimizer) -> Iterator[tuple[str, Tensor]]:
    """This process's part of what an optimizer remembers of each parameter, with names."""
    names = {id(parameter): name for name, parameter in parameters.items()}
    for parameter, state in optimizer.state.items():
        for kind, value in state.items():
            if isinstance(value, Tensor):
                yield f"the optimizer's {kind} of {names.get(id(parameter), 'a parameter')}", local(value)


def refuse_damage(engine: Engine, step: int) -> None:
    """Refuse to go on with weights or moments that are not finite, which no further step would mend.

    Raises:
        ModelError: on every process, where it is so on one.
    """
    damage = not_finite(weights_of(engine.parameters)) or not_finite(
        moments_of(engine.parameters, engine.optimizer)
    )

    def check() -> None:
        if damage:
            raise ModelError(f"after step {step}, {damage}; nothing of it was saved; {ADVICE}")

    agreed(engine.accelerator, check)


@torch.no_grad()
def find_cause(engine: Engine, batches: Iterable[tuple[Batch, Phase]]) -> str:
    """Where the first non-finite value of a step comes from: parameters, a layer of the forward pass, or a gradient.

    All processes look through all of their batches, since a sharded model takes every forward pass together.

    Args:
        engine: with the gradients of the step.
        batches: what the step was computed from, each with when it happens.

    Returns:
        One phrase, like "layer 3: softpick's output has 12 non-finite values (largest |score| 2.1e+38)"; the same on
        every process.
    """
    weights, gradient = not_finite(weights_of(engine.parameters)), _gradient_cause(engine.parameters)
    forward = [_forward_cause(engine, batch, phase) for batch, phase in batches]
    found = [weights, next(filter(None, forward), None), gradient]
    causes: list[list[str | None]] = gather_object([found])
    nearest = (cause for kind in zip(*causes, strict=True) for cause in kind if cause is not None)
    return next(nearest, "the sum over processes and micro-batches; each part is finite")


def _gradient_cause(parameters: Mapping[str, Tensor]) -> str | None:
    # The backward pass runs from the last layer to the first, so the last parameter is nearest to the cause.
    for name, parameter in reversed(list(parameters.items())):
        if parameter.grad is not None and not _finite(gradient := local(parameter.grad)):
            return f"the gradient of {name} has {_count(gradient)}; the forward pass is finite"
    return None


def _forward_cause(engine: Engine, batch: Batch, phase: Phase) -> str | None:
    return engine.compute(lambda objective: _cause_within(objective.network, batch, phase))


def _cause_within(model: GPT, batch: Batch, phase: Phase) -> str | None:
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
