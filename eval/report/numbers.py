"""One number for all variants: means over seeds, differences from the baseline, and their noise.

A variant is a group of runs that differ in nothing but their seed. Differences are taken seed by seed, since runs of
one seed share initial weights, data and order. A variant is better or worse than the baseline only where the 95 %
interval over seeds leaves out zero; with a single seed nothing is.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from eval.display import finite
from eval.intervals import Interval, student
from eval.noise import Noise, noise
from eval.report.columns import Column
from eval.report.comparison import columns, disagreements
from eval.report.pairs import Group, Paired, pair


@dataclass(frozen=True)
class Number:
    """One number, for all variants.

    Attributes:
        key, title, unit, group, meaning, headline: of its column.
        better: "lower", "higher", or None for a number that does not rank.
        baseline: the variant that the others are held against.
        values: by variant and seed.
        means: by variant, over its seeds.
        pairs: comparisons with the baseline, by variant; without those that have no seed in common with it.
        noise: of the baseline over its seeds.
        odd: entries of the protocols in which runs differ, so that their numbers do not compare.
        show, signed: how a value and a difference are written.
    """

    key: str
    title: str
    unit: str
    group: str
    meaning: str
    headline: bool
    better: str | None
    baseline: str
    values: dict[str, dict[int | None, float]]
    means: dict[str, Interval]
    pairs: dict[str, Paired]
    noise: Noise
    odd: list[str]
    show: Callable[[float], str]
    signed: Callable[[float], str]

    @property
    def heading(self) -> str:
        """Title and unit."""
        return f"{self.title} {self.unit}".strip()

    @property
    def arrow(self) -> str:
        """A sign for the direction that is better."""
        return {"lower": "↓", "higher": "↑", None: ""}[self.better]

    @property
    def differences(self) -> dict[str, Interval]:
        """By variant but the baseline, over the seeds that both have."""
        return {name: found.interval for name, found in self.pairs.items()}

    def verdict(self, variant: str) -> str | None:
        """Whether a variant is "better" or "worse" than the baseline beyond the noise of seeds; None where open."""
        found = self.pairs.get(variant)
        if found is None or found.better is None:
            return None
        return "better" if found.better else "worse"

    def mean(self, variant: str) -> str:
        """The mean of a variant, and its interval over seeds; "–" where there is none."""
        found = self.means.get(variant)
        return "–" if found is None else interval(found, self.show)

    def difference(self, variant: str) -> str:
        """The difference of a variant from the baseline, and its interval; "–" where there is none."""
        found = self.pairs.get(variant)
        return "–" if found is None else interval(found.interval, self.signed)


def number(column: Column, groups: Sequence[Group]) -> Number:
    """A column of all variants, held against the first, the baseline."""
    base = groups[0]
    runs = [run for group in groups for run in group.runs.values()]
    values = {
        group.name: {
            seed: value for seed, run in group.runs.items() if (value := finite(column.of(run))) is not None
        }
        for group in groups
    }
    compared = {group.name: pair(column, group, base) for group in groups[1:]}
    return Number(
        key=column.key,
        title=column.title,
        unit=column.unit,
        group=column.group,
        meaning=column.meaning,
        headline=column.headline,
        better=column.better,
        baseline=base.name,
        values=values,
        means={name: student(list(some.values())) for name, some in values.items() if some},
        pairs={name: found for name, found in compared.items() if found is not None},
        noise=noise(list(values[base.name].values())),
        odd=disagreements(column, runs),
        show=column.show,
        signed=column.signed,
    )


def numbers(groups: Sequence[Group]) -> list[Number]:
    """Every number that some run has, in the order of reading."""
    runs = [run for group in groups for run in group.runs.values()]
    found = (number(column, groups) for column in columns(runs))
    return [entry for entry in found if entry.means]


def interval(found: Interval, show: Callable[[float], str] = "{:.4g}".format) -> str:
    """A mean and the ends of its interval."""
    mean, *ends = (
        re.sub("^-", "−", show(value)) for value in (found.mean, found.low, found.high) if value is not None
    )
    return f"{mean} [{' to '.join(ends)}]" if len(ends) == 2 else mean
