"""The report of a study as one HTML page, with nothing to load from anywhere."""

from markupsafe import Markup

from eval.drawing import figures as drawn
from eval.drawing import pages, style
from study import figures, report
from study.evidence import Evidence
from study.seal import Seal


def render(found: Evidence, sealed: Seal) -> str:
    """The page: a forest of differences, verdicts in sentences, and everything else folded; every text is escaped."""
    study = found.study
    compared = [number for number in found.numbers if number.differences and not number.odd]
    loss = figures.losses(found.runs)
    return pages.render(
        "study.html",
        package="study",
        title=study.name,
        about=study.file.about.strip(),
        forest=_svg(figures.forest(compared, study), "forest", "differences from the baseline")
        if compared
        else None,
        narrow=_svg(figures.forest(compared, study, across=1), "narrow", "differences from the baseline")
        if compared
        else None,
        losses=_svg(drawn.curves(loss), "losses", loss.title) if loss.curves else None,
        caption=loss.caption,
        baseline=study.file.baseline,
        verdicts=report.sentences(found),
        since=sealed.since,
        tables=[(number, report.rows(number, study)) for number in found.numbers],
        noise=report.noise_rows(found),
        choices=found.choices,
        tuning=study.file.tuning,
        conditions=list(report.conditions(found, sealed)),
        words=report.WORDS,
        noise_words=report.NOISE_WORDS.format(baseline=study.file.baseline),
    )


def _svg(figure: object, name: str, label: str) -> Markup:
    return Markup(style.svg(figure, name, label))  # type: ignore[arg-type]
