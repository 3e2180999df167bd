"""Files for a paper: every figure as SVG, PNG, PDF and CSV, every table as CSV and LaTeX."""

from pathlib import Path

from eval.report import export
from eval.report.pairs import Group
from study.definition import Study
from study.evidence import gather


def write(study: Study, folder: Path) -> list[Path]:
    """Write the files; returns their paths.

    Raises:
        InputError: nothing has been measured yet, or the folder cannot be written.
    """
    found = gather(study)
    groups = [Group(variant, some) for variant, some in found.runs.items()]
    return export.write(groups, found.numbers, found.numbers, folder)
