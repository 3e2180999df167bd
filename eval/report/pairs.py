"""Paired differences between mechanisms, with 95 % intervals.

Runs that differ in nothing but their seed form a group. Runs of two groups with the same seed begin with the same
weights, as far as both have them, and see the same tokens in the same order, so they are compared pair by pair: what
the seed does to both cancels. With n pairs of differences d, the interval for the mean difference is Student's,

    mean(d) ± t(0.975, n - 1) * sd(d) / sqrt(n).

It says what to expect of other seeds. With one seed in common, or where all differences are the same (numbers in coarse
steps, like right answers of 200, agree by accident), there is no such interval and no verdict. What there may be with
one seed is an interval over the documents or questions that both runs were measured on, which `eval.intervals.paired`
makes: it says what to expect of these two trained models on other text of the kind, and nothing about another training
run. The windows of one document count as one.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from textwrap import fill

from eval.display import finite
from eval.intervals import Interval, student
from eval.report import comparison
from eval.report.collection import Measured
from eval.report.columns import Column
from eval.report.comparison import difference, disagreements, kind
from eval.terminal import table as tabulated

WORDS = (
    "In brackets the 95 % interval: over seeds by Student's t; where an n is given, over the n documents or questions "
    "that both runs of one seed were measured on, which speaks of the two trained models only. Differences that are "
    "all the same (no spread) have none, and no verdict. Not corrected for the number of comparisons: of twenty "
    "intervals around no difference, one leaves out zero."
)


@dataclass(frozen=True)
class Group:
    """Runs that differ in their seed only, by seed (None where none is recorded)."""

    name: str
    runs: Mapping[int | None, Measured]


@dataclass(frozen=True)
class Paired:
    """One number of two groups, compared pair by pair.

    Attributes:
        group, baseline: names of the groups; differences are group minus baseline.
        seeds: what they have in common.
        differences: one for each seed.
        over: what `interval` ranges over: "seeds", "parts" (documents or questions, of the one seed in common),
            "rounds" (of measuring speeds in turns) or None.
        units: how many of them.
        interval: of the mean difference; without ends where `over` is None or the differences are all the same.
        better: whether the group is better, or worse, for all of an interval over seeds; None where that is open.
    """

    group: str
    baseline: str
    seeds: list[int | None]
    differences: list[float]
    over: str | None
    units: int
    interval: Interval
    better: bool | None


@dataclass(frozen=True)
class Cell:
    """A comparison as text: the difference, its interval and what the interval ranges over."""

    difference: str
    interval: str
    better: bool | None


@dataclass(frozen=True)
class Table:
    """All comparisons: a row for each column of the comparison, a cell for each group but the baseline's."""

    baseline: str
    groups: list[tuple[str, list[int | None]]]
    rows: list[tuple[Column, list[Cell | None]]]

    @property
    def seeds(self) -> int:
        """The largest number of seeds that some group shares with the baseline."""
        return max((len(seeds) for _, seeds in self.groups), default=0)


def groups(runs: Sequence[Measured]) -> list[Group]:
    """The runs by what they are but for their seed: the baseline first, the others by name, whatever their order.

    The baseline, which the others are held against, has softmax in every layer where there is such a group; of several
    it is the one with the most seeds, then the first by name. A run without a config (a model that others trained) is
    a group of its own, and so is a second run of one seed.
    """
    found: dict[str, dict[int | None, Measured]] = {}
    for run in sorted(runs, key=lambda run: run.name):
        seed, key = (run.config or {}).get("seed"), kind(run)
        while seed in found.get(key, {}):
            key += "'"
        found.setdefault(key, {})[seed] = run
    members = [
        dict(sorted(some.items(), key=lambda entry: (entry[0] is None, entry[0]))) for some in found.values()
    ]
    labels = [next(iter(some.values())).label for some in members]
    named = [
        Group(label if labels.count(label) == 1 else min(run.name for run in some.values()), some)
        for label, some in zip(labels, members, strict=True)
    ]

    def rank(group: Group) -> tuple[bool, int, str]:
        first = next(iter(group.runs.values()))
        return first.label.split()[-1] != "softmax", -len(group.runs), group.name

    base = min(named, key=rank)
    return [base, *sorted((group for group in named if group is not base), key=lambda group: group.name)]


def columns(runs: Sequence[Measured]) -> list[Column]:
    """The columns of a comparison that rank."""
    return [column for column in comparison.columns(runs) if column.better]


def compare(column: Column, runs: Sequence[Measured]) -> list[Paired]:
    """A column of each group against the baseline's; groups without a seed, or numbers, in common are left out."""
    base, *others = groups(runs)
    compared = [pair(column, group, base) for group in others]
    return [paired for paired in compared if paired is not None]


def table(runs: Sequence[Measured]) -> Table:
    """Every ranking column of every group against the baseline's."""
    base, *others = groups(runs)
    rows = []
    for column in columns(runs):
        compared = {paired.group: paired for paired in compare(column, runs)}
        if compared:
            rows.append((column, [_cell(column, compared.get(group.name)) for group in others]))
    shared = [(group.name, [seed for seed in group.runs if seed in base.runs]) for group in others]
    return Table(base.name, shared, rows)


def text(runs: Sequence[Measured]) -> str:
    """The table for a terminal."""
    shown = table(runs)
    rows = []
    for column, cells in shown.rows:
        row: dict[str, object] = {"difference in": column.heading}
        for (name, _), cell in zip(shown.groups, cells, strict=True):
            row[name] = "–" if cell is None else f"{cell.difference} {cell.interval}{_mark(cell)}".strip()
        rows.append(row)
    if not rows:
        return "Paired differences: no two runs have a seed and a number in common."
    seeds = ", ".join(f"{name} {len(common)}" for name, common in shown.groups)
    heading = f"Differences from {shown.baseline}, pair by pair; seeds in common: {seeds}"
    words = WORDS if shown.seeds > 1 else f"One seed: another may turn these differences around. {WORDS}"
    return f"{heading}\n{tabulated(rows)}\n{fill(words, 110)}"


def _cell(column: Column, paired: Paired | None) -> Cell | None:
    if paired is None:
        return None
    low, high = paired.interval.low, paired.interval.high
    ends = "no spread" if low is None or high is None else f"[{column.signed(low)}, {column.signed(high)}]"
    words = {"seeds": ends, "parts": f"{ends}, n = {paired.units}", None: ""}[paired.over]
    return Cell(column.signed(paired.interval.mean), words, paired.better)


def _mark(cell: Cell) -> str:
    return {True: " better", False: " worse", None: ""}[cell.better]


def pair(column: Column, group: Group, base: Group) -> Paired | None:
    """A group against the baseline, seed by seed; None where they have no seed, or no number, in common."""
    pairs = {
        seed: (run, base.runs[seed])
        for seed, run in group.runs.items()
        if seed in base.runs and not disagreements(column, [run, base.runs[seed]])
    }
    numbers = {seed: [finite(column.of(run)) for run in pair] for seed, pair in pairs.items()}
    differences = {
        seed: mine - theirs
        for seed, (mine, theirs) in numbers.items()
        if mine is not None and theirs is not None
    }
    if not differences:
        return None
    over, units, interval = None, len(differences), student(list(differences.values()))
    if units > 1:
        over = "seeds"
    else:
        pair = pairs[next(iter(differences))]
        if (found := difference(column, *pair)) is not None:
            over, units, interval = "parts", len(column.parts(pair[0]) or ()), found
    sign = {"lower": -1, "higher": 1, None: 0}[column.better] * (interval.sign if over == "seeds" else 0)
    return Paired(
        group=group.name,
        baseline=base.name,
        seeds=list(differences),
        differences=list(differences.values()),
        over=over,
        units=units,
        interval=interval,
        better=sign > 0 if sign else None,
    )
