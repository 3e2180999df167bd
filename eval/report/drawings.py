"""The sections of the page: what the runs have left, drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
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
    """A figure of the page, over its full width if `wide`: curves as data, or a picture; neither where no run has its
    data.
    """

    title: str
    caption: str
    figure: Figure | Grid
    chart: dict[str, Any] | None = None
    svg: Markup | None = None
    wide: bool = False


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
    members = [(place, group) for place, group in enumerate(groups) for _ in group.runs]
    variants = {place: (of, group.name) for place, (of, group) in enumerate(members)}
    names = {place: group.name for place, group in enumerate(groups)}
    named = {run.name: group.name for group in groups for run in group.runs.values()}

    def drawn(declared: Figure | Grid, source: str) -> Iterator[Drawing]:
        caption = " ".join([declared.caption, *_missing(runs, source)])
        if isinstance(declared, Figure):
            mean = averaged(declared, variants)
            chart = charts.chart(mean, names) if mean.curves else None
            if chart is None and curves_only:
                return
            yield Drawing(declared.title, caption, mean, chart=chart)
        elif not curves_only:
            mean_grid = averaged_grid(declared, named)
            picture = Markup(style.svg(figures.grids(mean_grid), _plain(declared.title), declared.title))
            yield Drawing(declared.title, caption, mean_grid, svg=picture, wide=True)

    found = {"Training": Section("Training")}
    for figure in training.figures(runs):
        found["Training"].drawings += drawn(figure, "training")
    for name, analysis in catalogue.every().items():
        seen = shown(runs, name)
        drawings = [drawing for figure in analysis.figures(seen) for drawing in drawn(figure, name)]
        has_html = not curves_only and analysis.section is not None
        if not drawings and not has_html:
            continue
        heading = analysis.heading or name.capitalize()
        section = found.setdefault(heading, Section(heading))
        section.drawings += drawings
        if has_html and analysis.section is not None:
            # Templates have escaped what it holds.
            coloured = [replace(one, place=variants[one.place][0]) for one in seen]
            section.html = Markup(section.html) + Markup(analysis.section(coloured))
            section.missing += [f"{run.name}: {run.missing[name]}." for run in runs if name in run.missing]
    return list(found.values())


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
