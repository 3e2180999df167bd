"""Memory, communication and time of a run that was not started.

python -m training.plan configs/340m-softpick.yaml --gpus 8 --memory 80
"""

import argparse
from dataclasses import replace

from common.command import Parser, guarded

EPILOG = """
examples:
  python -m training.plan configs/340m-softpick.yaml --gpus 8 --memory 80
  python -m training.plan configs/340m-softpick.yaml train.length=8192 --gpus 8 --memory 40 --sharding fsdp
  python -m training.plan --presets --memory 80                      the presets on 1, 8 and 64 GPUs

What a step keeps is found by taking it on tensors without memory, with the run's own model, loss and optimizer. How
it is divided, messages and time follow from rules (training/plan/sharding.py) and from the rates given here. None of
it was held against a GPU.
"""


def main() -> None:
    """Print the plan of a run, or of the presets."""
    arguments = _parser().parse_intermixed_args()
    from models import ModelError
    from training.config import TrainConfig, load
    from training.plan import page
    from training.plan.estimate import Cluster
    from training.plan.sharding import shardings

    cluster = Cluster(
        gpus=arguments.gpus,
        memory=arguments.memory * 1e9,
        peak=arguments.peak * 1e12,
        utilisation=arguments.utilisation,
        per_node=arguments.gpus_per_node,
        near=arguments.bandwidth[0] * 1e9,
        far=arguments.bandwidth[1] * 1e9,
    )
    if arguments.presets:
        train = TrainConfig(batch_size=128, length=4096)
        print(f"Steps of {train.batch_size} x {train.length} tokens; {page.assumptions(cluster)}.\n")
        print(page.presets_table(train, cluster))
        return
    if arguments.config is None:
        raise ModelError("a config is needed, like configs/340m-softpick.yaml, or --presets (see --help)")
    config = load(arguments.config, arguments.overrides)
    if config.train.batch_size % cluster.gpus:
        raise ModelError(
            f"train.batch_size={config.train.batch_size} must be a multiple of the {cluster.gpus} GPUs"
        )
    vocabulary = config.model.vocab_size or config.data.tokenizer.vocab_size
    model = replace(config.model, vocab_size=vocabulary)
    ways = shardings(cluster.gpus, cluster.per_node)
    if arguments.sharding and arguments.sharding not in ways:
        raise ModelError(
            f"--sharding {arguments.sharding} is for several nodes: --gpus must be a multiple of --gpus-per-node "
            f"({cluster.per_node}) above it, got {cluster.gpus}"
        )
    if arguments.sharding:
        ways = (arguments.sharding,)
    checkpointing = (arguments.checkpointing,) if arguments.checkpointing else page.CHECKPOINTING
    found = page.choices(model, config.train, cluster, ways, checkpointing)
    print(page.headline(arguments.config, config.train, found, cluster), end="\n\n")
    print(page.choices_table(found))


def _parser() -> Parser:
    parser = Parser(
        prog="python -m training.plan",
        description=__doc__,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", help="a YAML file of configs/")
    parser.add_argument(
        "overrides", nargs="*", metavar="key=value", help="changes to it, like train.length=8192"
    )
    parser.add_argument(
        "--presets", action="store_true", help="the presets on 1, 8 and 64 GPUs instead of a config"
    )
    parser.add_argument("--gpus", type=_count, default=1)
    parser.add_argument("--gpus-per-node", type=_count, default=8)
    parser.add_argument("--memory", type=_positive, default=80.0, help="GB of one GPU (default: 80)")
    parser.add_argument("--sharding", choices=("none", "zero2", "hsdp", "fsdp"), help="default: all")
    parser.add_argument("--checkpointing", choices=("none", "selective", "full"), help="default: all")
    parser.add_argument(
        "--peak", type=_positive, default=989.0, help="TFLOP/s of one GPU (default: 989, an H100 in bf16)"
    )
    parser.add_argument(
        "--utilisation", type=_positive, default=0.4, help="share of the peak that is reached (default: 0.4)"
    )
    parser.add_argument(
        "--bandwidth",
        type=_positive,
        nargs=2,
        default=(450.0, 50.0),
        metavar=("NEAR", "FAR"),
        help="GB/s that a GPU sends inside a node and to another one (default: 450 50)",
    )
    return parser


def _count(text: str) -> int:
    if not (text.isascii() and text.isdigit() and 0 < int(text) <= 2**20):
        raise argparse.ArgumentTypeError(f"must be a positive integer, got {text!r}")
    return int(text)


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < float("inf"):
        raise argparse.ArgumentTypeError(f"must be a positive number, got {text!r}")
    return value


if __name__ == "__main__":
    guarded(main)
