"""The one error that a caller's mistake raises in this package."""

from collections.abc import Iterable
from difflib import get_close_matches
from typing import ClassVar


class AttentionError(ValueError):
    """A call that cannot be served: says what was wrong and what would be right.

    A command prints the message of any exception whose class says `mendable = True`, and exits with 2.
    """

    mendable: ClassVar[bool] = True


def quoted(name: str) -> str:
    """A name that somebody wrote, in quotes and no longer than a line."""
    return repr(name if len(str(name)) <= 60 else f"{str(name)[:57]}...")


def nearest(name: str, options: Iterable[str]) -> str:
    """The end of an error message about an unknown name: its nearest neighbour, then every known one."""
    known = sorted(options)
    close = get_close_matches(str(name), known, n=1, cutoff=0.5)
    guess = f"; did you mean {close[0]!r}?" if close else ""
    return f"{guess} (known: {', '.join(known) or 'none'})"
