"""`python -m attention.build`: compile the CPU kernels ahead of time, for every mechanism and its variants."""

from attention.command import Parser, guarded
from attention.conformance import cases
from attention.core.cache import cache_directory
from attention.core.formula import UntraceableError, formula_of
from attention.forms.composite import Composite
from attention.kernels.cpu.ops import load_mechanism


def main() -> None:
    """Compile what is not there yet.

    Raises:
        BuildError: that is impossible here.
    """
    Parser(prog="python -m attention.build", description=__doc__).parse_args()
    for mechanism in cases():
        try:
            for part in mechanism.parts if isinstance(mechanism, Composite) else (mechanism,):
                load_mechanism(formula_of(part))
            print(f"ready    {mechanism}")
        except UntraceableError as error:
            print(f"skipped  {mechanism}: {error}")
    print(f"kept in {cache_directory()}")


if __name__ == "__main__":
    guarded(main)
