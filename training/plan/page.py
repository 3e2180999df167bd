"""The plan in words and Markdown tables."""

from dataclasses import replace

from models.config import ModelConfig
from training.config import TrainConfig
from training.plan.estimate import RESERVED, Cluster, Estimate, estimate
from training.plan.sharding import shardings
from training.plan.sizes import CHECKPOINTING, Sizes, sizes

PRESETS = ("60m", "125m", "340m", "760m", "1.8b")
GPUS = (1, 8, 64)

Choice = tuple[str, Sizes, Estimate]
"""Activation checkpointing, and what follows from it."""


def choices(
    model: ModelConfig,
    train: TrainConfig,
    cluster: Cluster,
    ways: tuple[str, ...],
    checkpointing: tuple[str, ...] = CHECKPOINTING,
) -> list[Choice]:
    """Every combination, the least work first."""
    measured = sizes(model, train, checkpointing)
    return [
        (mode, found, estimate(found, train, cluster, sharding))
        for mode, found in measured.items()
        for sharding in ways
    ]


def headline(name: str, train: TrainConfig, found: list[Choice], cluster: Cluster) -> str:
    """The run in a sentence, and what the figures stand on."""
    measured = {mode: sizes for mode, sizes, _ in found}
    first = found[0][1]
    kept = ", ".join(f"{sizes.block_token / 1024:.1f} ({mode})" for mode, sizes in measured.items())
    return (
        f"{name}: {first.parameters:,} parameters, {train.batch_size} x {train.length} tokens per step on "
        f"{cluster.gpus} GPU(s).\nKept for the backward pass per token and block, KiB: {kept}.\n"
        f"{assumptions(cluster)[0].upper()}{assumptions(cluster)[1:]}."
    )


def assumptions(cluster: Cluster) -> str:
    """What the figures stand on."""
    return (
        f"{cluster.memory / 1e9:g} GB per GPU, of which {RESERVED:.0%} are left alone; "
        f"{cluster.peak / 1e12:g} TFLOP/s at {cluster.utilisation:.0%} utilisation; {cluster.near / 1e9:g} GB/s among "
        f"{cluster.per_node} GPUs of a node, {cluster.far / 1e9:g} GB/s per GPU between nodes"
    )


def choices_table(found: list[Choice]) -> str:
    """One row per combination; GB are 10^9 bytes."""
    header = [
        "sharding",
        "checkpointing",
        "micro-batch",
        "weights",
        "gradients",
        "optimizer",
        "activations",
        "logits, head",
        "GB in all",
        "fits",
        "largest micro-batch",
        "GB sent",
        "s / step",
    ]
    rows = []
    for mode, _, found_here in found:
        part = found_here.share
        memory = (part.weights, part.gradients, part.state, found_here.activations, found_here.loss)
        rows.append(
            [
                found_here.sharding,
                mode,
                str(found_here.micro_batch),
                *(f"{size / 1e9:.2f}" for size in memory),
                f"{found_here.memory / 1e9:.1f}",
                "yes" if found_here.fits else "no",
                str(found_here.largest or "none"),
                f"{(part.sent + part.sent_inside) / 1e9:.1f}",
                span([f"{seconds:.3g}" for seconds in found_here.seconds]),
            ]
        )
    return table(header, rows)


def presets_table(train: TrainConfig, cluster: Cluster) -> str:
    """The presets on 1, 8 and 64 GPUs, each as it fits with the least work."""
    header = [
        "model",
        "parameters",
        "GPUs",
        "sharding",
        "checkpointing",
        "micro-batch",
        "GB",
        "s / step",
        "tokens / s",
    ]
    rows = []
    for preset in PRESETS:
        model = ModelConfig(preset=preset)
        measured = sizes(model, train)
        for gpus in GPUS:
            mode, best = _least_work(measured, train, replace(cluster, gpus=gpus))
            millions = f"{measured[mode].parameters / 1e6:,.0f} M"
            if best is None:
                rows.append([preset, millions, str(gpus), *("does not fit",) * 2, *("–",) * 4])
                continue
            tokens = [train.batch_size * train.length / seconds for seconds in reversed(best.seconds)]
            rows.append(
                [
                    preset,
                    millions,
                    str(gpus),
                    best.sharding,
                    mode,
                    str(best.micro_batch),
                    f"{best.memory / 1e9:.1f}",
                    span([f"{seconds:.3g}" for seconds in best.seconds]),
                    span([f"{rate / 1e3:,.0f} k" for rate in tokens]),
                ]
            )
    return table(header, rows)


def _least_work(
    measured: dict[str, Sizes], train: TrainConfig, cluster: Cluster
) -> tuple[str, Estimate | None]:
    """The first that fits, at its largest micro-batch: nothing recomputed before something, whole before divided."""
    for mode in CHECKPOINTING:
        for sharding in shardings(cluster.gpus, cluster.per_node):
            largest = estimate(measured[mode], train, cluster, sharding).largest
            if largest:
                chosen = replace(train, micro_batch_size=largest)
                return mode, estimate(measured[mode], chosen, cluster, sharding)
    return CHECKPOINTING[-1], None


def span(ends: list[str]) -> str:
    """Both ends of a range, one of them where they are the same."""
    return " to ".join(dict.fromkeys(ends))


def table(header: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    lines = [header, ["---"] * len(header), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)
