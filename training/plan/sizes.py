"""The sizes of a step, measured: on one small block of each kind, and on tensors that have shapes and no memory."""

from collections.abc import Callable
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


def sizes(config: ModelConfig, train: TrainConfig) -> Sizes:
    """The sizes of a step with sequences of `train.length`, in bf16 where `train.precision` is "auto".

    Raises:
        ModelError, AttentionError: as `models.resolve`.
    """
    plan, length, mode = _measurable(config), train.length, train.activation_checkpointing
    narrow = {"fp32": None, "fp16": torch.float16}.get(train.precision, torch.bfloat16)
    with torch.device("meta"):
        network = GPT(plan)
    blocks = _blocks(network, mode, narrow)
    everything = blocks if mode == "none" else _blocks(network, "none", narrow)
    ends = Kept.found(lambda sequences: _ends(plan, train, narrow, sequences))
    head = Kept.found(lambda sequences: _ends(plan, train, None, sequences)).constant
    counts = [sum(parameter.numel() for parameter in layer.parameters()) for layer in network.layers]
    token = sum(block.token for block in blocks)
    return Sizes(
        parameters=network.parameter_count(),
        n_layer=plan.n_layer,
        block=max(counts),
        outside=network.parameter_count() - sum(counts),
        state=optimizer_bytes(plan, train),
        casts=sum(block.constant for block in blocks) + ends.constant - head,
        head=head,
        block_token=token / plan.n_layer,
        sequence=length * (token + ends.token),
        again=length * max(whole.token - part.token for whole, part in zip(everything, blocks, strict=True)),
        logits=_logits(plan.vocab_size, narrow),
        flops=network.flops_per_token(length) + _flops_again(network, mode, length),
    )


def optimizer_bytes(plan: Plan, train: TrainConfig) -> int:
    """What the optimizer remembers after a step."""
    with FakeTensorMode():
        network = GPT(plan)
        optimizer = build_optimizer(network, train)
        for parameter in network.parameters():
            parameter.grad = torch.zeros_like(parameter)
        optimizer.step()
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


def _blocks(network: GPT, mode: str, narrow: torch.dtype | None) -> list[Kept]:
    """What each block keeps; those of one kind, alike in attention and shapes, are measured once."""
    known: dict[object, Kept] = {}
    found = []
    for depth, layer in enumerate(network.plan.layers):
        module = network.layers[depth]
        shapes = tuple((name, parameter.shape) for name, parameter in module.named_parameters())
        kind = (layer.mechanism, layer.window, shapes)
        if kind not in known:
            known[kind] = _block(network.plan, depth, mode, narrow)
        found.append(known[kind])
    return found


def _block(plan: Plan, depth: int, mode: str, narrow: torch.dtype | None) -> Kept:
    """What one block keeps: what a model of it alone does, less what one of no block does."""
    with torch.device("meta"):
        network = GPT(plan)
    network.checkpointing = mode
    ends, network.layers = nn.ModuleList(), nn.ModuleList([network.layers[depth]])
    network.to_empty(device="cpu")
    for parameter in network.parameters():
        nn.init.zeros_(parameter)

    def measure(sequences: int) -> int:
        tokens = torch.zeros(sequences, _TOKENS, dtype=torch.int64)
        block, totals = network.layers, []
        for network.layers in (block, ends):
            with saved_bytes([*network.parameters(), tokens]) as saved, _autocast(narrow):
                hidden = network.hidden(tokens)
            totals.append(saved.total)
            del hidden
        network.layers = block
        return totals[0] - totals[1]

    return Kept.found(measure)


def _ends(plan: Plan, train: TrainConfig, narrow: torch.dtype | None, sequences: int) -> int:
    """What embedding, last norm and loss keep."""
    with FakeTensorMode():
        network = GPT(plan)
        network.layers = nn.ModuleList()
        tokens = torch.zeros(sequences, _TOKENS, dtype=torch.int64)
        with saved_bytes([*network.parameters(), tokens]) as saved, _autocast(narrow):
            loss = Objective(network, train)(tokens, tokens)
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
