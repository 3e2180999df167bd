"""The report of a study as one HTML page, with nothing to load from anywhere."""

from eval.drawing import pages
from eval.report.drawings import sections
from eval.report.pairs import Group
from eval.report.view import view
from study import report
from study.evidence import Evidence
from study.seal import Seal


def render(found: Evidence, sealed: Seal) -> str:
    """The page: a forest of differences, verdicts in sentences, and everything else folded; every text is escaped."""
    study = found.study
    groups = [Group(variant, some) for variant, some in found.runs.items()]
    judged = [(verdict, found.number(verdict.claim.metric)) for verdict in found.verdicts]
    return pages.render(
        "study.html",
        package="study",
        title=study.name,
        about=study.file.about.strip(),
        view=view(
            groups,
            found.numbers,
            headline=found.numbers,
            what="variant" if len(study.file.grid) > 1 else next(iter(study.file.grid)),
            parts=study.parts,
            axes=list(study.file.grid),
            tables={"All variants": found.numbers},
        ),
        sections=sections(groups, curves_only=True),
        verdicts=[
            (verdict, report.said(verdict, number), report.grounds(verdict, number))
            for verdict, number in judged
        ],
        since=sealed.since,
        noise=report.noise_rows(found),
        choices=found.choices,
        tuning=study.file.tuning,
        conditions=list(report.conditions(found, sealed)),
        words=report.WORDS,
        noise_words=report.NOISE_WORDS.format(baseline=study.file.baseline),
    )
