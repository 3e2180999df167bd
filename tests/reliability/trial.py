"""One fault that was made, and what came of it."""

from dataclasses import dataclass


@dataclass(frozen=True)
class Trial:
    """A fault and its outcome.

    Attributes:
        kind: the class of fault, a row of the table, like "a checkpoint's file, one byte flipped".
        case: what reproduces it, like "optimizer.bin, byte 4711, seed 3".
        outcome: how it was survived, like "refused in one line"; a row counts each.
        failure: empty where it was survived, else one line that says what went wrong.
    """

    kind: str
    case: str
    outcome: str = ""
    failure: str = ""
