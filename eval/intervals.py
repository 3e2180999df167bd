"""Intervals that hold a true value with 95 % confidence: of a mean, a share, a difference of answers.

All of them count independent units: seeds, documents, questions; never windows or rows that share one.
"""

import math
from collections.abc import Collection, Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from models import ModelError

CONFIDENCE = 0.95
NORMAL = 1.959964
"""The 97.5 % quantile of the normal distribution."""


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


def contributions(
    sums: Sequence[float], counts: Sequence[float], units: Sequence[Hashable]
) -> dict[str, float]:
    """Contributions of independent units to sum(sums) / sum(counts): their mean is it, their spread its noise.

    Windows of one document resemble each other, so they count as one unit. With theta the ratio and s_g, n_g, N the
    sums of unit g of G and of all, these are the pseudo-values of the jackknife over units (Tukey 1958), moved so that
    their mean is theta itself,

        v_g = theta + r_g - mean(r),    r_g = (G - 1) (s_g - theta n_g) / (N - n_g)

    which are the means of the units where all are equally large. `student` makes an interval of them.

    Args:
        sums, counts: of each window: what was summed, and over how many tokens (or 1 for each question).
        units: which document each window comes from.

    Returns:
        By name of the unit. Nothing where there are fewer than two units, or one has more than half of all: the others
        then do not say how it might have been.
    """
    of: dict[str, list[float]] = {}
    for total, count, unit in zip(sums, counts, units, strict=True):
        known = of.setdefault(str(unit), [0.0, 0.0])
        known[0] += total
        known[1] += count
    sizes = np.array(list(of.values())).reshape(-1, 2)
    total, count = sizes.sum(0)
    if len(of) < 2 or 2 * sizes[:, 1].max() > count:
        return {}
    values = sizes[:, 0] / sizes[:, 1].clip(min=1)
    if np.ptp(sizes[:, 1]):
        theta = total / count
        pull = (len(of) - 1) * (sizes[:, 0] - theta * sizes[:, 1]) / (count - sizes[:, 1])
        values = theta + pull - pull.mean()
    return dict(zip(of, values.tolist(), strict=True))


def standard_error(values: Collection[float]) -> float | None:
    """The standard error of the mean of independent values, sd / sqrt(n); None for a single one."""
    return float(np.std(list(values), ddof=1)) / math.sqrt(len(values)) if len(values) > 1 else None


def paired(mine: Mapping[str, float], theirs: Mapping[str, float]) -> Interval:
    """The difference of two numbers that the same units contributed to, with its interval, unit by unit.

    Right and wrong answers (1 and 0) by McNemar's exact test, everything else by Student's t.
    """
    differences = [mine[unit] - theirs[unit] for unit in mine]
    answers = {*mine.values(), *theirs.values()} <= {0.0, 1.0}
    return mcnemar(differences) if answers else student(differences)


def mcnemar(differences: Sequence[float]) -> Interval:
    """The mean of differences 1, 0 and -1 between two answers to each question, and its interval.

    Of m questions that only one of two got right, the share that the first did has a binomial interval (Clopper and
    Pearson 1934) [p, q]; that of the difference is (2 p - 1) m / n to (2 q - 1) m / n. It leaves out zero exactly where
    McNemar's exact test rejects. Without ends where both answered alike.
    """
    first, second = differences.count(1), differences.count(-1)
    mean = (first - second) / len(differences)
    if not first + second:
        return Interval(mean, None, None)
    share = _stats().binomtest(first, first + second).proportion_ci(CONFIDENCE, method="exact")
    low, high = (float(2 * end - 1) * (first + second) / len(differences) for end in share)
    return Interval(mean, low, high)


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
