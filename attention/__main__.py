"""`python -m attention`: the mechanisms, their formulas, papers, options and kernels."""

import argparse
import sys
from pathlib import Path

from attention import notes
from attention.command import Parser, guarded
from attention.core.registry import names

OTHERS = """\
other commands:
  python -m attention.check        what runs on this machine, how exact, how fast: a page for a report
  python -m attention.build        compile the CPU kernels ahead of time
  python -m attention.conformance  every check of every mechanism on every kernel
  python -m attention.transformers models of Hugging Face beside their own eager code
"""


def main() -> None:
    """Print or write what the mechanisms say of themselves."""
    parser = Parser(
        prog="python -m attention",
        description=__doc__,
        epilog=OTHERS,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    commands = parser.add_subparsers(dest="command", required=True)
    listing = commands.add_parser("list", help="every mechanism: formula, paper, form, kernels (the default)")
    listing.add_argument("--markdown", action="store_true", help="as a Markdown table")
    show = commands.add_parser(
        "show", help="one mechanism: paper, published code, this code, hazards, options"
    )
    show.add_argument("name", help="as the list has it")
    docs = commands.add_parser("docs", help=f"all of that for every mechanism: {notes.PAGE}")
    docs.add_argument(
        "--write",
        type=Path,
        metavar="DIR",
        help=f"a checkout, whose {notes.PAGE} and {notes.README} are updated",
    )
    options = parser.parse_args(sys.argv[1:] or ["list"])
    if options.command == "list":
        print(notes.table(names()) if options.markdown else notes.listing(), end="")
    elif options.command == "show":
        print(notes.section(options.name) + notes.kernels_here(options.name), end="")
    elif options.write is None:
        print(notes.page(), end="")
    else:
        notes.write(options.write)


if __name__ == "__main__":
    guarded(main)
