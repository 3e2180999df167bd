"""`python -m attention.transformers`: hold the models of Hugging Face on these kernels against their own eager code."""

import logging
import sys
import warnings
from pathlib import Path

from attention.command import Parser, guarded
from attention.core.errors import AttentionError
from attention.transformers import parity


def main() -> int:
    """Print the parity table, or write it; 1 where a cell does not hold."""
    parser = Parser(prog="python -m attention.transformers", description=__doc__)
    parser.add_argument("--write", type=Path, metavar="FILE", help="write it there; printed otherwise")
    options = parser.parse_args(sys.argv[1:])
    if options.write is not None and not options.write.parent.is_dir():
        raise AttentionError(f"there is no folder {options.write.parent}")
    warnings.simplefilter("ignore")
    logging.getLogger("transformers").setLevel(logging.ERROR)
    text = parity.page()
    if options.write is None:
        print(text, end="")
    else:
        options.write.write_text(text, encoding="utf-8")
    return int("**" in text)


if __name__ == "__main__":
    guarded(main)
