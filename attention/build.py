"""`python -m attention.build`: compile the CPU kernels ahead of time, for every mechanism and its variants."""

import sys

from attention.conformance import cases
from attention.kernels.cache import cache_directory
from attention.kernels.cpu.build import BuildError
from attention.kernels.cpu.ops import load_mechanism
from attention.kernels.program import UntraceableError, program_of
from attention.mechanism import Composite
from common.command import Parser, guarded


def main() -> None:
    """Compile what is not there yet; exit code 1 where that is impossible."""
    Parser(prog="python -m attention.build", description=__doc__).parse_args()
    for mechanism in cases():
        try:
            for part in mechanism.parts if isinstance(mechanism, Composite) else (mechanism,):
                load_mechanism(program_of(part))
            print(f"ready    {mechanism}")
        except UntraceableError as error:
            print(f"skipped  {mechanism}: {error}")
        except BuildError as error:
            sys.exit(f"error: {error}")
    print(f"kept in {cache_directory()}")


if __name__ == "__main__":
    guarded(main)
