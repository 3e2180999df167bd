"""Files for a paper: every figure as SVG, PNG and PDF, every table as CSV and LaTeX."""

from collections.abc import Iterator
from pathlib import Path

from matplotlib.figure import Figure

from common.errors import InputError
from eval.drawing import figures as drawn
from eval.drawing import style
from eval.report.numbers import Number
from study import figures, report
from study.definition import Study
from study.evidence import Evidence, gather


def write(study: Study, folder: Path) -> list[Path]:
    """Write the files; returns their paths.

    Raises:
        InputError: nothing has been measured yet, or the folder cannot be written.
    """
    found = gather(study)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = [path for name, figure in _figures(found) for path in _save(figure, folder / name)]
        for number in found.numbers:
            path = folder / f"{number.key}.tex"
            path.write_text(latex(number, study), encoding="utf-8")
            written.append(path)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from error
    report.write_csv(folder / "numbers.csv", found)
    return [*written, folder / "numbers.csv"]


def latex(number: Number, study: Study) -> str:
    """The table of a number, for the package booktabs."""
    lines = [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        rf"variant & {_escaped(number.heading)} & difference from {_escaped(study.file.baseline)} & seeds \\",
        r"\midrule",
    ]
    for row in report.rows(number, study):
        difference = rf"\textbf{{{_escaped(row.difference)}}}" if row.verdict else _escaped(row.difference)
        lines.append(rf"{_escaped(row.variant)} & {_escaped(row.mean)} & {difference} & {row.seeds} \\")
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _figures(found: Evidence) -> Iterator[tuple[str, Figure]]:
    compared = [number for number in found.numbers if number.differences and not number.odd]
    if compared:
        yield "forest", figures.forest(compared, found.study)
    loss = figures.losses(found.runs)
    if loss.curves:
        yield "losses", drawn.curves(loss)


def _save(figure: Figure, stem: Path) -> list[Path]:
    document = stem.with_suffix(".pdf")
    with style.style():
        figure.savefig(document, metadata={"CreationDate": None})
    return [*style.save(figure, stem), document]


def _escaped(text: str) -> str:
    """A text for LaTeX."""
    signs = {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "ε": r"$\varepsilon$", "Σ": r"$\Sigma$", "–": "--"}
    signs |= {sign: f"\\{sign}" for sign in "%&#_{}$"} | {"|": r"\textbar{}", "<": "$<$", ">": "$>$"}
    return "".join(signs.get(sign, sign) for sign in text)
