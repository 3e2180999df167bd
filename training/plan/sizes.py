"""The sizes of a step, measured: on one small block of each kind, and on tensors that have shapes and no memory."""

from collections.abc import Callable, Collection, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace

import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode

from models import GPT, ModelConfig, ModelError, Plan, resolve
from training.config import TrainConfig
from training.losses.chunked import rows_at_once
from training.losses.objective import Objective
from training.memory import saved_bytes
from training.optimizers import build_optimizer

_KERNELS = ("tiled", "auto")
"""Attention kernels that need no compiler, the first that runs every layer: they keep what fused ones on a GPU keep."""

CHECKPOINTING = ("none", "selective", "full")
"""Modes of activation checkpointing, the least work first."""

_TOKENS = 128
"""Length of the one and of the two sequences from which it is told what grows with the batch and what does not."""


@dataclass(frozen=True)
class Sizes:
    """A run's model and step; in bytes where nothing else is said.

    Attributes:
        parameters: trained scalars.
        n_layer: blocks.
        block: scalars of the largest block.
        outside: scalars outside of blocks: embedding, head, last norm.
        state: what the optimizer keeps.
        casts: what is kept whatever the batch, weights in the precision of products above all.
        head: the gradient of the head, which is made with the loss.
        block_token: what the blocks keep of one token for the backward pass, their mean.
        sequence: what all of the model keeps of one sequence.
        again: what the backward pass computes again at once, of one sequence.
        logits: the largest part of the logits, with their gradient, that a GPU holds at once.
        flops: floating-point operations per token, recomputation included.
    """

    parameters: int
    n_layer: int
    block: int
    outside: int
    state: int
    casts: int
    head: int
    block_token: float
    sequence: int
    again: int
    logits: int
    flops: float


@dataclass(frozen=True)
class Kept:
    """Bytes that are kept whatever the batch, and of each token."""

    constant: int
    token: int

    @classmethod
    def found(cls, measure: Callable[[int], int]) -> "Kept":
        """Tell both from the bytes of one and of two sequences of `_TOKENS`."""
        one, two = measure(1), measure(2)
        return cls(2 * one - two, (two - one) // _TOKENS)


def sizes(config: ModelConfig, train: TrainConfig, modes: Sequence[str] = CHECKPOINTING) -> dict[str, Sizes]:
    """The sizes of a step with sequences of `train.length`, in bf16 where `train.precision` is "auto".

    Args:
        config: of the model.
        train: of the step, whatever its activation checkpointing.
        modes: of activation checkpointing.

    Raises:
        ModelError, AttentionError: as `models.resolve`.
    """
    plan, length = _measurable(config), train.length
    narrow = {"fp32": None, "fp16": torch.float16}.get(train.precision, torch.bfloat16)
    with torch.device("meta"):
        network = GPT(plan)
    blocks = _blocks(network, {"none", *modes}, narrow)
    with FakeTensorMode():
        fake = GPT(plan)
        state = optimizer_bytes(fake, train)
        fake.layers = nn.ModuleList()
        ends = Kept.found(lambda sequences: _ends(fake, train, narrow, sequences))
        head = Kept.found(lambda sequences: _ends(fake, train, None, sequences)).constant
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in network.layers]

    def found(mode: str) -> Sizes:
        kept = blocks[mode]
        token = sum(block.token for block in kept)
        return Sizes(
            parameters=network.parameter_count(),
            n_layer=plan.n_layer,
            block=max(counts),
            outside=network.parameter_count() - sum(counts),
            state=state,
            casts=sum(block.constant for block in kept) + ends.constant - head,
            head=head,
            block_token=token / plan.n_layer,
            sequence=length * (token + ends.token),
            again=length
            * max(whole.token - part.token for whole, part in zip(blocks["none"], kept, strict=True)),
            logits=_logits(plan.vocab_size, narrow),
            flops=network.flops_per_token(length) + _flops_again(network, mode, length),
        )

    return {mode: found(mode) for mode in modes}


def optimizer_bytes(network: GPT, train: TrainConfig) -> int:
    """What the optimizer remembers after a step."""
    optimizer = build_optimizer(network, train)
    for parameter in network.parameters():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    optimizer.zero_grad()
    remembered = [value for entry in optimizer.state.values() for value in entry.values()]
    return sum(value.nbytes for value in remembered if isinstance(value, Tensor))


def _measurable(config: ModelConfig) -> Plan:
    refused: ModelError | None = None
    for kernel in _KERNELS:
        try:
            return resolve(replace(config, kernel=kernel))
        except ModelError as error:
            refused = error
    assert refused is not None
    raise refused


def _blocks(network: GPT, modes: Collection[str], narrow: torch.dtype | None) -> dict[str, list[Kept]]:
    """What each block keeps, by mode; those of one kind, alike in attention and shapes, are measured once."""
    known: dict[object, dict[str, Kept]] = {}
    found: dict[str, list[Kept]] = {mode: [] for mode in modes}
    for depth, layer in enumerate(network.plan.layers):
        shapes = tuple(
            (name, parameter.shape) for name, parameter in network.layers[depth].named_parameters()
        )
        kind = (layer.mechanism, layer.window, shapes)
        if kind not in known:
            alone = _alone(network, depth)
            known[kind] = {mode: _block(alone, mode, narrow) for mode in modes}
        for mode in modes:
            found[mode].append(known[kind][mode])
    return found


def _alone(network: GPT, depth: int) -> GPT:
    """A copy of one block with embedding and last norm, in memory, of a network that has shapes only."""
    whole, network.layers = network.layers, nn.ModuleList([network.layers[depth]])
    alone = deepcopy(network).to_empty(device="cpu")
    network.layers = whole
    for parameter in alone.parameters():
        nn.init.zeros_(parameter)
    return alone


def _block(alone: GPT, mode: str, narrow: torch.dtype | None) -> Kept:
    """What one block keeps: what a model of it alone does, less what one of no block does."""
    alone.checkpointing = mode
    block, ends = alone.layers, nn.ModuleList()

    def measure(sequences: int) -> int:
        tokens = torch.zeros(sequences, _TOKENS, dtype=torch.int64)
        totals = []
        for alone.layers in (block, ends):
            with saved_bytes([*alone.parameters(), tokens]) as saved, _autocast(narrow):
                hidden = alone.hidden(tokens)
            totals.append(saved.total)
            del hidden
        alone.layers = block
        return totals[0] - totals[1]

    return Kept.found(measure)


def _ends(ends: GPT, train: TrainConfig, narrow: torch.dtype | None, sequences: int) -> int:
    """What embedding, last norm and loss keep: what a model of no block does."""
    tokens = torch.zeros(sequences, _TOKENS, dtype=torch.int64)
    with saved_bytes([*ends.parameters(), tokens]) as saved, _autocast(narrow):
        loss = Objective(ends, train)(tokens, tokens)
    del loss
    return saved.total


def _autocast(narrow: torch.dtype | None) -> torch.autocast:
    return torch.autocast("cpu", narrow or torch.bfloat16, enabled=narrow is not None)


def _logits(vocabulary: int, narrow: torch.dtype | None) -> int:
    """The products in their precision, float32 of them, and the gradient in their precision again."""
    width = 4 + (0 if narrow is None else 2 * narrow.itemsize)
    return rows_at_once("cuda", vocabulary) * vocabulary * width


def _flops_again(network: GPT, mode: str, length: int) -> float:
    """What the backward pass computes a second time, of one token."""
    if mode == "full":
        return (network.flops_per_token(length) - 6 * network.head_weight.numel()) / 3
    if mode == "selective":
        # All of the feed-forward half but its last product, of which nothing is kept.
        return 2.0 * sum(
            parameter.numel()
            for name, parameter in network.named_parameters()
            if ".mlp." in name and ".down." not in name
        )
    return 0.0
