"""The error of a mistake that a user can mend, and the hint about a name that is unknown."""

import difflib
from collections.abc import Iterable
from typing import ClassVar


class InputError(ValueError):
    """A mistake in what a user gave, in one line: what is wrong, where, and what would be right.

    A command prints the message of any exception whose class says `mendable = True`, and exits with 2.
    """

    mendable: ClassVar[bool] = True


def nearest(name: str, options: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the closest known one, and all that are known."""
    known = sorted(options)
    close = difflib.get_close_matches(str(name), known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known) or 'none'})"
