"""A run on given GPUs: memory of one, communication and time of a step."""

from dataclasses import dataclass

from training.config import TrainConfig
from training.plan.sharding import Share, share
from training.plan.sizes import Sizes

RESERVED = 0.1
"""Of a GPU's memory, what is left to the CUDA context, communication buffers and holes between tensors."""


@dataclass(frozen=True)
class Cluster:
    """Equal GPUs; the defaults are data-sheet figures of an H100 with NVLink and 400 Gb/s of network each.

    Attributes:
        gpus: their number.
        memory: of one, bytes.
        peak: of one in the products' precision, FLOP/s.
        utilisation: the share of `peak` that a step reaches while it computes.
        per_node: GPUs that are connected by `near`.
        near: bytes/s that a GPU sends inside a node.
        far: bytes/s that a GPU sends to another node.
    """

    gpus: int = 1
    memory: float = 80e9
    peak: float = 989e12
    utilisation: float = 0.4
    per_node: int = 8
    near: float = 450e9
    far: float = 50e9

    @property
    def bandwidth(self) -> float:
        """Bytes/s of a message around all GPUs: its slowest link."""
        return self.near if self.gpus <= self.per_node else self.far


@dataclass(frozen=True)
class Estimate:
    """One GPU in one step.

    Attributes:
        sharding: how state is divided.
        micro_batch: sequences in one forward pass.
        share: weights, gradients, state and messages.
        activations: bytes kept for the backward pass, with what it computes again at once.
        loss: bytes of logits and of the head's gradient.
        memory: bytes in all.
        largest: the largest micro-batch that fits and divides the GPU's part of a step; 0: none.
        computing: seconds.
        sending: seconds.
    """

    sharding: str
    micro_batch: int
    share: Share
    activations: int
    loss: int
    largest: int
    computing: float
    sending: float
    limit: float

    @property
    def memory(self) -> int:
        """Bytes in all."""
        part = self.share
        return part.weights + part.gradients + part.state + self.activations + self.loss

    @property
    def fits(self) -> bool:
        """Whether it stays below what a GPU has, a reserve left out."""
        return self.memory <= self.limit

    @property
    def seconds(self) -> tuple[float, float]:
        """Of a step: where all messages hide behind computation, and where none does."""
        return max(self.computing, self.sending), self.computing + self.sending


def estimate(sizes: Sizes, train: TrainConfig, cluster: Cluster, sharding: str) -> Estimate:
    """What a run needs.

    Args:
        sizes: of its model and step.
        train: its batch, length and precision.
        cluster: where it would run.
        sharding: one of `training.plan.sharding.SHARDINGS`.
    """
    sequences = train.batch_size // cluster.gpus
    micro_batch = min(train.micro_batch_size or sequences, sequences)
    width = 4 if train.precision == "fp32" else 2
    part = share(sizes, sharding, cluster.gpus, cluster.per_node, width, sequences // micro_batch)
    loss = sizes.logits + sizes.head
    per_sequence = sizes.sequence + sizes.again
    limit = (1 - RESERVED) * cluster.memory
    room = limit - part.weights - part.gradients - part.state - loss
    fitting = [n for n in range(1, sequences + 1) if sequences % n == 0 and n * per_sequence <= room]
    tokens = sequences * train.length
    return Estimate(
        sharding=sharding,
        micro_batch=micro_batch,
        share=part,
        activations=micro_batch * per_sequence,
        loss=loss,
        largest=max(fitting, default=0),
        computing=tokens * sizes.flops / (cluster.peak * cluster.utilisation),
        sending=part.sent / cluster.bandwidth + part.sent_inside / cluster.near,
        limit=limit,
    )
