"""`python -m models.export RUN DIR`: a trained run for everybody who has transformers and `attention`."""

import argparse
from importlib.util import find_spec

from common.command import Parser, UsageError, guarded

EPILOG = """
examples:
  python -m models.export runs/micro-softpick exports/micro-softpick
  python -m models.export runs/micro-softpick exports/micro-softpick --push USER/micro-softpick --private

then:
  AutoModelForCausalLM.from_pretrained("exports/micro-softpick", trust_remote_code=True)
"""


def main() -> None:
    """Parse the command line, write the folder, and put it on the hub where that is asked for."""
    arguments = _parser().parse_args()
    if find_spec("transformers") is None:
        raise UsageError("an export needs transformers; pip install -e '.[eval]'")

    from models.export.folder import export
    from models.export.hub import check, push

    if arguments.push is not None:
        check(arguments.push)
    folder = export(arguments.run, arguments.folder, arguments.step)
    print(f"{folder}: opens with trust_remote_code=True wherever transformers and attention are installed")
    if arguments.push is not None:
        print(push(folder, arguments.push, private=arguments.private))


def _parser() -> argparse.ArgumentParser:
    parser = Parser(
        "python -m models.export",
        description="Write a run as a folder of Hugging Face's transformers.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("run", metavar="RUN", help="run directory")
    parser.add_argument("folder", metavar="DIR", help="the folder to write, which must not exist")
    parser.add_argument("--step", type=int, help="checkpoint (default: the latest)")
    parser.add_argument("--push", metavar="REPO", help="also upload it to the hub, as USER/NAME")
    parser.add_argument("--private", action="store_true", help="make a new repository of --push private")
    return parser


if __name__ == "__main__":
    guarded(main)
