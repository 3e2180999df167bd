"""The sections of the page: what the runs have left, drawn."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from markupsafe import Markup

from eval import catalogue
from eval.display import Figure, Grid
from eval.drawing import figures, style
from eval.report import training
from eval.report.collection import Measured, shown


@dataclass(frozen=True)
class Drawing:
    """A figure of the page, over its full width if `wide`; `svg` is None where no run has its data."""

    title: str
    caption: str
    svg: Markup | None
    wide: bool = False


@dataclass
class Section:
    """Figures under one heading, further HTML, and which runs lack the latter."""

    heading: str
    drawings: list[Drawing] = field(default_factory=list)
    html: str = ""
    missing: list[str] = field(default_factory=list)


def sections(runs: Sequence[Measured]) -> list[Section]:
    """The training log, and what analyses declare; those of one heading share a section."""
    found = {
        "Training": Section(
            "Training", [_drawn(figure, runs, "training") for figure in training.figures(runs)]
        )
    }
    for name, analysis in catalogue.every().items():
        seen = shown(runs, name)
        drawings = [_drawn(figure, runs, name) for figure in analysis.figures(seen)]
        if not drawings and analysis.section is None:
            continue
        heading = analysis.heading or name.capitalize()
        section = found.setdefault(heading, Section(heading))
        section.drawings += drawings
        if analysis.section is not None:
            # Templates have escaped what it holds.
            section.html = Markup(section.html) + Markup(analysis.section(seen))
            section.missing += [f"{run.name}: {run.missing[name]}." for run in runs if name in run.missing]
    return list(found.values())


def _drawn(declared: Figure | Grid, runs: Sequence[Measured], source: str) -> Drawing:
    caption = " ".join([declared.caption, *_missing(runs, source)])
    name = "".join(letter if letter.isalnum() else "-" for letter in declared.title.lower())
    if isinstance(declared, Grid):
        grid = style.svg(figures.grids(declared), name, declared.title)
        return Drawing(declared.title, caption, Markup(grid), wide=True)
    svg = style.svg(figures.curves(declared), name, declared.title) if declared.curves else None
    return Drawing(declared.title, caption, None if svg is None else Markup(svg))


def _missing(runs: Sequence[Measured], source: str) -> Iterator[str]:
    """A sentence on the runs that a figure lacks, and why."""
    absent: dict[str, list[str]] = {}
    for run in runs:
        if source in run.missing:
            absent.setdefault(run.missing[source], []).append(run.name)
    if absent:
        listed = (f"{', '.join(names)}: {reason}" for reason, names in absent.items())
        yield f"Missing: {'; '.join(listed)}."
