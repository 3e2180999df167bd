"""Statistics over seeds: tests against a bound, correction for many of them, and how many seeds would decide.

A seed decides initial weights and the order of data, so the values of seeds are independent; two variants share their
seeds, so differences are taken seed by seed.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np

from eval.noise import POWER, power

MOST_SEEDS = 10_000
"""Where the search for a number of seeds ends."""


def one_sided(values: Sequence[float], bound: float, side: int) -> float:
    """The p-value of "the mean is not above the bound" (side 1), or not below (side -1), by Student's t.

    Where the values do not spread, as counts easily do not, t says nothing: then by the sign test, 2⁻ⁿ where all n lie
    on that side.
    """
    away = side * (np.asarray(values, dtype=float) - bound)
    if float(np.ptp(away)) <= 1e-9 * float(np.abs(away).max()):
        return 0.5 ** len(away) if away[0] > 0 else 1.0
    if len(away) < 2:
        return 1.0
    return float(_stats().ttest_1samp(away, 0, alternative="greater").pvalue)


def holm(chances: Sequence[float]) -> list[float]:
    """p-values corrected for their number (Holm 1979, Scandinavian Journal of Statistics 6): with the k-th smallest p
    of m, the largest (m - j + 1) p_j over all j ≤ k, at most 1.
    """
    corrected, largest = [1.0] * len(chances), 0.0
    for rank, place in enumerate(sorted(range(len(chances)), key=chances.__getitem__)):
        largest = max(largest, min(1.0, (len(chances) - rank) * chances[place]))
        corrected[place] = largest
    return corrected


def needed_seeds(values: Sequence[float], distance: float, level: float) -> int | None:
    """Seeds at which a mean so far from a bound is found with a chance of 80 %, if the spread of the values is the true
    one; None where it cannot be told, or is more than `MOST_SEEDS`.
    """
    deviation = float(np.std(values, ddof=1)) if len(values) > 1 else 0.0
    if not deviation or not distance:
        return None
    low, high = 2, 2
    while power(high, distance / deviation, level) < POWER:
        low, high = high, 2 * high
        if high > MOST_SEEDS:
            return None
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if power(middle, distance / deviation, level) < POWER else (low, middle)
    return high


def _stats() -> Any:
    """scipy.stats, imported late: it takes a second."""
    from scipy import stats

    return stats
