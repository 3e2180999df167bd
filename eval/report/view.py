"""What templates/comparison.html shows: variants, the forest of their differences, and tables of numbers."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from eval.drawing import charts, style
from eval.report.forest import Panel, panels
from eval.report.numbers import Number
from eval.report.pairs import Group


@dataclass(frozen=True)
class Variant:
    """A variant as a page names it.

    Attributes:
        name: unique.
        parts: of its name, one for each axis.
        place: among the variants, which decides its colour.
        seeds: of its runs.
    """

    name: str
    parts: Sequence[str]
    place: int
    seeds: list[int | None]

    @property
    def colour(self) -> str:
        """The colour of its curves."""
        return style.colour(self.place)

    @property
    def dashes(self) -> str:
        """The line style of its curves, as CSS names it."""
        return ("solid", "dashed", "dotted", "double")[charts.DASHES.index(charts.dash(self.place))]


@dataclass(frozen=True)
class View:
    """What a page shows of variants.

    Attributes:
        what: what a variant is called, "mechanism" or "variant".
        baseline: that the others are held against.
        variants: the baseline first.
        axes: by axis, each part of a name with the variants that have it.
        panels: of the forest.
        tables: numbers, by heading.
    """

    what: str
    baseline: str
    variants: list[Variant]
    axes: Mapping[str, Sequence[tuple[str, list[str]]]]
    panels: list[Panel]
    tables: Mapping[str, Sequence[Number]]

    @property
    def meanings(self) -> dict[str, str]:
        """The meaning of each number of the forest, by heading."""
        return {panel.number.heading: panel.number.meaning for panel in self.panels if panel.number.meaning}

    @property
    def lone(self) -> str:
        """The sentence on variants of which a single seed can be compared; "" where there are none."""
        others = [variant.name for variant in self.variants if self._seeds(variant.name)]
        alone = [name for name in others if self._seeds(name) == 1]
        if not alone:
            return ""
        if len(alone) == len(others):
            whose = "One seed"
        else:
            whose = f"One seed in common with {self.baseline} ({', '.join(alone)})"
        return (
            f"{whose}: another seed may turn a difference around, so none is called better or worse. An interval is "
            "then over documents or questions, and speaks of these trained models only."
        )

    @property
    def widest(self) -> int:
        """The letters of the longest name."""
        return max(len(" · ".join(variant.parts)) for variant in self.variants)

    @property
    def several(self) -> bool:
        """Whether some variant has several seeds."""
        return any(len(variant.seeds) > 1 for variant in self.variants)

    @property
    def _numbers(self) -> list[Number]:
        return [number for some in self.tables.values() for number in some]

    def _seeds(self, name: str) -> int:
        """The largest number of seeds that a variant shares with the baseline."""
        return max(
            (len(found.seeds) for number in self._numbers if (found := number.pairs.get(name))), default=0
        )


def view(
    groups: Sequence[Group],
    numbers: Sequence[Number],
    *,
    headline: Sequence[Number],
    what: str = "mechanism",
    parts: Mapping[str, Sequence[str]] | None = None,
    axes: Sequence[str] = (),
    tables: Mapping[str, Sequence[Number]] | None = None,
) -> View:
    """What a page shows of some groups, the baseline first.

    Args:
        groups: the variants, in order; the baseline's first.
        numbers: of the tables, by heading of their own unless `tables` says otherwise.
        headline: those of the forest.
        what: what a variant is called.
        parts: of the variants' names, by variant.
        axes: what the parts are parts of.
        tables: numbers, by heading.
    """
    grouped: dict[str, list[Number]] = {}
    for number in numbers:
        grouped.setdefault(number.group, []).append(number)
    variants = [
        Variant(group.name, (parts or {}).get(group.name, [group.name]), place, list(group.runs))
        for place, group in enumerate(groups)
    ]
    return View(what, groups[0].name, variants, _axes(axes, variants), panels(headline), tables or grouped)


def _axes(names: Sequence[str], variants: Sequence[Variant]) -> dict[str, list[tuple[str, list[str]]]]:
    """By axis, each part of a name with the variants that have it."""
    found = {}
    for place, axis in enumerate(names):
        parts = dict.fromkeys(variant.parts[place] for variant in variants)
        found[axis] = [
            (part, [variant.name for variant in variants if variant.parts[place] == part]) for part in parts
        ]
    return found
