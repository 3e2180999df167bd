"""Intervals that hold a true value with 95 % confidence: of a mean, and of a share."""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import ModelError

CONFIDENCE = 0.95
NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""

RESAMPLES = 2000


@dataclass(frozen=True)
class Interval:
    """An estimate with the ends of its 95 % interval, None where there is none."""

    mean: float
    low: float | None
    high: float | None

    @property
    def sign(self) -> int:
        """1 or -1 where the whole interval is above or below zero, otherwise 0."""
        if self.low is None or self.high is None:
            return 0
        return int(self.low > 0) - int(self.high < 0)

    @property
    def half(self) -> float | None:
        """Half of its width."""
        return None if self.low is None or self.high is None else (self.high - self.low) / 2


def student(values: Sequence[float]) -> Interval:
    """A mean and its interval by Student's t, mean ± t(0.975, n - 1) * sd / sqrt(n).

    Without ends where the values do not say how they spread: a single one, or all the same, as numbers in coarse steps
    (right answers of 200) easily are.

    Raises:
        ModelError: scipy is not installed.
    """
    mean = float(np.mean(values))
    if not _spread(values):
        return Interval(mean, None, None)
    low, high = _stats().ttest_1samp(values, 0).confidence_interval(CONFIDENCE)
    return Interval(mean, float(low), float(high))


def bootstrap(values: Sequence[float]) -> Interval:
    """A mean and its interval by bootstrap (BCa; Efron 1987), always the same; ends and errors as for `student`."""
    mean = float(np.mean(values))
    if not _spread(values):
        return Interval(mean, None, None)
    chance = np.random.default_rng(0)
    found = _stats().bootstrap(
        (values,), np.mean, confidence_level=CONFIDENCE, n_resamples=RESAMPLES, rng=chance
    )
    low, high = found.confidence_interval
    return Interval(mean, float(low), float(high))


def wilson(right: int, trials: int) -> Interval:
    """The share right / trials and its score interval (Wilson 1927), which has a width at 0 and at 1, too."""
    share, weight = right / trials, NORMAL**2 / trials
    center = (share + weight / 2) / (1 + weight)
    half = math.sqrt(weight * (share * (1 - share) + weight / 4)) / (1 + weight)
    return Interval(share, max(0.0, center - half), min(1.0, center + half))


def _spread(values: Sequence[float]) -> bool:
    """Whether values differ by more than their rounding."""
    return len(values) > 1 and float(np.ptp(values)) > 1e-9 * float(np.abs(values).max())


def _stats() -> Any:
    """scipy.stats, imported late: it takes a second and is optional."""
    try:
        from scipy import stats
    except ImportError as error:
        raise ModelError("intervals need the package scipy: pip install -e '.[eval]'") from error
    return stats
