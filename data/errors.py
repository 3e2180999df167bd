"""The one error of this package, and the hint it carries."""

import difflib
from collections.abc import Iterable


class DataError(ValueError):
    """A mistake in the configuration or files of the data, in one line: what is wrong, and what is right."""

    def __init__(self, message: str) -> None:
        super().__init__(message.replace("\r", "\\r").replace("\n", "\\n"))


def nearest(name: str, options: Iterable[str]) -> str:
    """The tail of an error message about an unknown name: the closest known one, and all that are known."""
    known = sorted(options)
    close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    hint = f"; did you mean {close[0]!r}?" if close else ""
    return f"{hint} (known: {', '.join(known)})"
