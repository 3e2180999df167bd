"""How long a run will take: at least, before its first step, and about, once it has gone a few."""

import statistics

STEPS = 10
"""Steps whose times are looked at before a run's duration is said."""

LONG = 1800.0
"""Seconds from which a run is said to be long before it begins."""


def at_least(flops: float, rate: float) -> str | None:
    """The shortest time of so many operations at a device's rate in FLOP/s, as a line; None where that is not long."""
    seconds = flops / rate
    if seconds < LONG:
        return None
    return f"this takes {spoken(seconds)} at least: {flops:.1e} operations, at {rate:.1e} per second in one product"


class Forecast:
    """Says once how long the steps left will take."""

    def __init__(self) -> None:
        self._steps: list[float] = []
        self._validation: float | None = None

    def validated(self, seconds: float) -> None:
        """Note how long a validation took."""
        self._validation = seconds

    def stepped(self, seconds: float, steps: int, validations: int) -> str | None:
        """Note how long a step took, with `steps` and `validations` to come; after ten, a line with the estimate.

        The median of the steps counts, which the first, slow with compilation, does not move.
        """
        self._steps.append(seconds)
        if len(self._steps) != STEPS or not steps:
            return None
        pace = statistics.median(self._steps)
        left = pace * steps + (self._validation or 0.0) * validations
        with_them = f" and {validations} validations" if self._validation is not None and validations else ""
        return f"{pace:.3g} s per step; the {steps:,} steps left{with_them} take about {spoken(left)}"


def spoken(seconds: float) -> str:
    """A duration in its two largest units: "45 s", "12 min 5 s", "3 h 20 min", "4 d 2 h"."""
    parts: list[str] = []
    left = round(seconds)
    for unit, size in (("d", 86400), ("h", 3600), ("min", 60), ("s", 1)):
        count, left = divmod(left, size)
        if count or parts or unit == "s":
            parts.append(f"{count} {unit}")
    return " ".join(part for part in parts[:2] if not part.startswith("0 ") or len(parts) == 1)
