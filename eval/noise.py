"""The noise of seeds: how far a number moves by itself, and which difference so many seeds can show."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

LEVEL = 0.05
"""Chance of a false verdict."""

POWER = 0.8
"""Chance of finding a difference that is said to be found with so many seeds."""


@dataclass(frozen=True)
class Noise:
    """What seeds do to one number.

    Attributes:
        seeds: how many.
        deviation: standard deviation over them.
        shows: the smallest difference that so many pairs of seeds show with a chance of 80 %, if both variants had
            this deviation and nothing in common; None for a single seed.
    """

    seeds: int
    deviation: float | None
    shows: float | None


def noise(values: Sequence[float]) -> Noise:
    """The noise of a number over seeds."""
    if len(values) < 2:
        return Noise(len(values), None, None)
    deviation = float(np.std(values, ddof=1))
    return Noise(len(values), deviation, detectable(len(values)) * math.sqrt(2) * deviation)


def detectable(seeds: int, level: float = LEVEL) -> float:
    """The smallest mean difference, in standard deviations of the differences, that a two-sided t-test over so many
    seeds finds with a chance of 80 %.
    """
    low, high = 0.0, 1.0
    while power(seeds, high, level) < POWER:
        high *= 2
    for _ in range(50):
        middle = (low + high) / 2
        low, high = (middle, high) if power(seeds, middle, level) < POWER else (low, middle)
    return high


def power(seeds: int, effect: float, level: float) -> float:
    """The chance that a two-sided t-test over so many seeds finds a mean of `effect` standard deviations."""
    stats = _stats()
    critical = stats.t.ppf(1 - level / 2, seeds - 1)
    found = stats.nct.sf(critical, seeds - 1, effect * math.sqrt(seeds))
    # The noncentral distribution has no value far in its tail, where the chance is one.
    return 1.0 if math.isnan(found) else float(found)


def _stats() -> Any:
    """scipy.stats, imported late: it takes a second."""
    from scipy import stats

    return stats
