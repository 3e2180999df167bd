"""How the state of a run is divided among GPUs, and what they must tell each other: n GPUs, P parameters.

    none    every GPU holds all (DDP): weights and gradients in float32, and gradients once more in the buckets in which
            they are summed, 2 (n - 1) / n of them sent once per step
    zero2   weights whole in half precision, their float32 copy and what the optimizer keeps divided by n, gradients
            in half precision divided by n, sent after every micro-batch; new weights gathered once (DeepSpeed)
    fsdp    all divided by n in float32; a block's weights are gathered in half precision just before they are needed,
            in the forward and the backward pass of every micro-batch, and its gradients sent after it (FSDP2, ZeRO-3)
    hsdp    the same among the g GPUs of a node, each node with all; a GPU's part of the gradients is then summed with
            those of its likes on the n / g nodes, 2 (n - g) / n of it sent to another node (FSDP2 on a mesh)

In float32 training half precision means float32. A message to and from everybody goes around a ring, so that each GPU
sends (n - 1) / n of it.
"""

from dataclasses import dataclass

from training.plan.sizes import Sizes

SHARDINGS = ("none", "zero2", "hsdp", "fsdp")
"""From whole to divided."""


@dataclass(frozen=True)
class Share:
    """Of one GPU, in bytes.

    Attributes:
        weights: in every copy.
        gradients: in every copy.
        state: what the optimizer keeps.
        sent: in one step, around all GPUs or, with `hsdp`, between nodes.
        sent_inside: in one step, around the GPUs of a node alone.
    """

    weights: int
    gradients: int
    state: int
    sent: int
    sent_inside: int = 0


def shardings(gpus: int, per_node: int) -> tuple[str, ...]:
    """Name those that differ: `hsdp` is for several full nodes."""
    hybrid = gpus > per_node and gpus % per_node == 0
    return SHARDINGS if hybrid else tuple(name for name in SHARDINGS if name != "hsdp")


def share(sizes: Sizes, sharding: str, gpus: int, per_node: int, width: int, micro_batches: int) -> Share:
    """One GPU's part of a run.

    Args:
        sizes: of the run.
        sharding: one of `SHARDINGS`.
        gpus: n.
        per_node: g, for `hsdp`, of which n is a multiple.
        width: bytes of a number in the products, 2 or 4.
        micro_batches: of a step on one GPU.
    """
    parameters, ring = sizes.parameters, (gpus - 1) / gpus
    if sharding == "none" or gpus == 1:
        copies = 1 if gpus == 1 else 2
        sent = 2 * ring * 4 * parameters
        return Share(4 * parameters + sizes.casts, copies * 4 * parameters, sizes.state, round(sent))
    if sharding == "zero2":
        master = 0 if width == 4 else 4 * parameters // gpus
        sent = ring * width * parameters * (micro_batches + 1)
        gradients = width * parameters // gpus + width * sizes.block
        return Share(width * parameters + master, gradients, sizes.state // gpus, round(sent))
    parts = per_node if sharding == "hsdp" else gpus
    # Outside of the blocks: the embedding, the head and a norm, gathered from the first layer to the last. Of the
    # blocks, the one that computes and the next, which is on its way.
    gathered = width * (sizes.outside + 2 * sizes.block)
    unsharded = width * max(sizes.outside, 2 * sizes.block)
    around = round(3 * (parts - 1) / parts * width * parameters * micro_batches)
    between = round(2 * (gpus - parts) / gpus * width * parameters / parts * micro_batches)
    return Share(
        4 * parameters // parts + gathered,
        4 * parameters // parts + unsharded,
        sizes.state // parts,
        sent=between if sharding == "hsdp" else around,
        sent_inside=around if sharding == "hsdp" else 0,
    )
