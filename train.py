"""Train a model: `python train.py configs/micro-softpick.yaml`."""

import argparse

from common.command import Parser, guarded

EPILOG = """
examples:
  python train.py configs/micro-softpick.yaml
  python train.py configs/micro-softmax.yaml model.attention=swat train.steps=500 name=micro-swat-short
  python train.py configs/micro-softmax.yaml 'model.attention=softmax*1,lssar*3' model.n_layer=8 name=micro-mixed
  python train.py configs/micro-softpick.yaml configs/recipes/modern.yaml
  python train.py configs/micro-softpick.yaml --resume            continue after Ctrl-C, SIGTERM or a crash
  ACCELERATE_USE_CPU=true torchrun --standalone --nproc_per_node 2 train.py configs/micro-softpick.yaml
  accelerate launch --config_file configs/accelerate/fsdp2-8-gpus.yaml train.py configs/340m-softpick.yaml

mechanisms:   python -m attention          config keys:   python train.py --keys
a run leaves  runs/NAME/: config.yaml, metrics.jsonl, tensorboard/, checkpoints/
"""


def main() -> None:
    """Parse the command line and train."""
    parser = Parser(
        description="Train a language model whose attention is chosen by name.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("config", nargs="?", help="a YAML file of configs/")
    parser.add_argument(
        "overrides",
        nargs="*",
        metavar="key=value",
        help="changes to it, like train.steps=500, or YAML files to lay over it, like configs/recipes/modern.yaml",
    )
    parser.add_argument(
        "--resume", action="store_true", help="continue the run if it exists, start it if not"
    )
    parser.add_argument(
        "--keys",
        action="store_true",
        help="list all config keys with type, default, meaning, unit and choices, and leave",
    )
    parser.add_argument(
        "--print-config", action="store_true", help="print the config with all its keys as YAML, and leave"
    )
    arguments = parser.parse_intermixed_args()
    if arguments.keys:
        from training.config import describe_keys

        print(describe_keys())
    elif arguments.config is None:
        parser.error("a config is needed, like configs/micro-softpick.yaml (see --help)")
    elif arguments.print_config:
        from storage.run import as_yaml
        from training.config import as_dict, load

        print(as_yaml(as_dict(load(arguments.config, arguments.overrides))), end="")
    else:
        from training import load, train

        train(load(arguments.config, arguments.overrides), resume=arguments.resume)


if __name__ == "__main__":
    guarded(main)
