"""The range or the choices of a value stand beside the field that it belongs to, and are checked in one place.

    steps: int = ranged(1000, 1, 10**9)
    learning_rate: float = ranged(1e-3, 0.0, FLOAT32, above=True)

    mlp: str = one_of("swiglu", "gelu")

`violation(config)` is the first value of a dataclass that is out of its range or none of its choices, in words.
A number that may also be None is in range then.
"""

import dataclasses
import math
from typing import Any

from common.errors import nearest

FLOAT32 = 3e38
"""The largest number of float32, in which models are trained."""

TINY = 1e-37
"""Below this, float32 loses digits and then everything."""

SEED = 2**32 - 1
"""The largest seed that every library takes."""


@dataclasses.dataclass(frozen=True)
class Range:
    """Numbers from `low` to `high`, both included unless `above`; integers where both are."""

    low: float
    high: float
    above: bool = False

    def __contains__(self, value: Any) -> bool:
        kinds = int if self.whole else int | float
        if isinstance(value, bool) or not isinstance(value, kinds):
            return False
        # Python compares integers of any size with floats; nan compares as false.
        inside = self.low < value <= self.high if self.above else self.low <= value <= self.high
        return inside and (not self.above or value >= TINY)

    @property
    def whole(self) -> bool:
        """Whether only integers are in it."""
        return isinstance(self.low, int) and isinstance(self.high, int)

    def __str__(self) -> str:
        if self.whole:
            first = "a positive integer" if self.low == 1 else f"an integer of at least {self.low}"
            return f"{first}, at most {self.high}"
        if self.above and self.low == 0:
            return f"a positive number from {TINY:g} to {self.high:g}"
        return f"a number from {self.low:g} to {self.high:g}{' (not itself)' if self.above else ''}"


def ranged(default: Any, low: float, high: float, *, above: bool = False) -> Any:
    """A dataclass field of a number with its range."""
    return dataclasses.field(default=default, metadata={"range": Range(low, high, above)})


def one_of(*choices: Any) -> Any:
    """A dataclass field that takes one of these values; the first is the default."""
    return dataclasses.field(default=choices[0], metadata={"choices": choices})


def violation(config: Any, prefix: str = "", kind: Any = None) -> str | None:
    """The first value of a dataclass, nested ones included, that is out of its range or none of its choices, in words.

    `kind` is the dataclass whose ranges hold, that of `config` where it is left out.
    """
    for field in dataclasses.fields(kind or config):
        value, allowed = getattr(config, field.name), field.metadata.get("range")
        name = f"{prefix}{field.name}"
        if dataclasses.is_dataclass(value):
            if problem := violation(value, f"{name}."):
                return problem
        elif allowed is not None and value is not None and value not in allowed:
            return f"{name} must be {allowed}, got {_shown(value)}"
        elif (choices := field.metadata.get("choices")) and value not in choices:
            known = [str(choice) for choice in choices if choice is not None]
            return f"{name}: unknown {field.name} {value!r}{nearest(str(value), known)}"
    return None


def _shown(value: Any) -> str:
    if isinstance(value, int) and value.bit_length() > 128:
        return f"an integer of about {round(value.bit_length() * math.log10(2))} digits"
    return repr(value)[:80]
