"""The sections of the page: what the runs have left, drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from markupsafe import Markup

from eval import catalogue
from eval.display import Figure, Grid
from eval.drawing import charts, figures, style
from eval.report import training
from eval.report.collection import Measured, shown
from eval.report.curves import averaged, averaged_grid
from eval.report.pairs import Group


@dataclass(frozen=True)
class Drawing:
    """A figure of the page.

    Attributes:
        figure: the means over the seeds of each group.
        caption: its own, and which runs are missing.
        names: of the groups, by place.
    """

    figure: Figure | Grid
    caption: str
    names: dict[int, str]

    @property
    def title(self) -> str:
        """Its heading."""
        return self.figure.title

    @property
    def wide(self) -> bool:
        """Whether it stands over the full width of the page."""
        return isinstance(self.figure, Grid)

    @cached_property
    def chart(self) -> dict[str, Any] | None:
        """Curves as data; None where no run has any."""
        if isinstance(self.figure, Grid) or not self.figure.curves:
            return None
        return charts.chart(self.figure, self.names)

    @cached_property
    def svg(self) -> Markup | None:
        """A grid as a picture; None for curves."""
        if not isinstance(self.figure, Grid):
            return None
        return Markup(style.svg(figures.grids(self.figure), _plain(self.title), self.title))


@dataclass
class Section:
    """Figures under one heading, further HTML, and which runs lack the latter."""

    heading: str
    drawings: list[Drawing] = field(default_factory=list)
    html: str = ""
    missing: list[str] = field(default_factory=list)

    @property
    def anchor(self) -> str:
        """Its id on the page."""
        return _plain(self.heading)


def sections(groups: Sequence[Group], *, curves_only: bool = False) -> list[Section]:
    """The training log, and what analyses declare; those of one heading share a section.

    Args:
        groups: of runs; a curve is the mean over the seeds of a group.
        curves_only: whether to leave out pictures, what analyses show beside figures, and what was not measured.
    """
    runs = [run for group in groups for run in group.runs.values()]
    names = {place: group.name for place, group in enumerate(groups)}
    places = [place for place, group in enumerate(groups) for _ in group.runs]
    analyses = catalogue.every()
    found = {"Training": Section("Training")}
    for source, heading, declared in means(groups):
        drawings = [
            Drawing(figure, " ".join([figure.caption, *_missing(runs, source)]), names)
            for figure in declared
            if not curves_only or (isinstance(figure, Figure) and figure.curves)
        ]
        beside = None if curves_only or source not in analyses else analyses[source].section
        if not drawings and beside is None:
            continue
        section = found.setdefault(heading, Section(heading))
        section.drawings += drawings
        if beside is not None:
            # Templates have escaped what it holds.
            coloured = [replace(one, place=places[one.place]) for one in shown(runs, source)]
            section.html = Markup(section.html) + Markup(beside(coloured))
            section.missing += [
                f"{run.name}: {run.missing[source]}." for run in runs if source in run.missing
            ]
    return list(found.values())


def means(groups: Sequence[Group]) -> Iterator[tuple[str, str, list[Figure | Grid]]]:
    """The figures of the training log, then of each analysis, with the mean over the seeds of each group.

    Yields:
        Where they come from, the heading that they stand under, and the figures.
    """
    runs = [run for group in groups for run in group.runs.values()]
    members = [(place, group) for place, group in enumerate(groups) for _ in group.runs]
    variants = {place: (of, group.name) for place, (of, group) in enumerate(members)}
    named = {run.name: group.name for group in groups for run in group.runs.values()}

    def mean(declared: Figure | Grid) -> Figure | Grid:
        return averaged_grid(declared, named) if isinstance(declared, Grid) else averaged(declared, variants)

    yield "training", "Training", [mean(figure) for figure in training.figures(runs)]
    for name, analysis in catalogue.every().items():
        declared = analysis.figures(shown(runs, name))
        yield name, analysis.heading or name.capitalize(), [mean(figure) for figure in declared]


def _plain(title: str) -> str:
    """A title as an id."""
    return "".join(letter if letter.isalnum() else "-" for letter in title.lower())


def _missing(runs: Sequence[Measured], source: str) -> Iterator[str]:
    """A sentence on the runs that a figure lacks, and why."""
    absent: dict[str, list[str]] = {}
    for run in runs:
        if source in run.missing:
            absent.setdefault(run.missing[source], []).append(run.name)
    if absent:
        listed = (f"{', '.join(names)}: {reason}" for reason, names in absent.items())
        yield f"Missing: {'; '.join(listed)}."
