"""Files for a paper: every figure as SVG, PNG, PDF and CSV, every table as CSV and LaTeX."""

import csv
import io
from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure

from common import files
from common.errors import InputError
from eval import display
from eval.drawing import figures, style
from eval.report import forest
from eval.report.drawings import means
from eval.report.numbers import Number
from eval.report.pairs import Group


def write(
    groups: Sequence[Group], numbers: Sequence[Number], headline: Sequence[Number], folder: Path
) -> list[Path]:
    """Write the files; returns their paths.

    Args:
        groups: the variants, the baseline first.
        numbers: of the tables.
        headline: those of the forest.
        folder: to write to.

    Raises:
        InputError: the folder cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
        written = _forest(groups, headline, folder)
        for _, _, declared in means(groups):
            for figure in declared:
                written += _drawing(figure, folder / file_name(figure.title))
        for number in numbers:
            path = folder / f"{file_name(number.key)}.tex"
            files.write(path, latex(number, groups))
            written.append(path)
        write_numbers(folder / "numbers.csv", numbers)
    except OSError as error:
        raise InputError(f"cannot write {folder}: {error.strerror}") from error
    return [*written, folder / "numbers.csv"]


def file_name(title: str) -> str:
    """A title as the stem of a file."""
    words = "".join(letter if letter.isalnum() or letter in "_.-" else " " for letter in title.lower())
    return "-".join(words.split())


def write_numbers(path: Path, numbers: Sequence[Number]) -> None:
    """Write every value: a line for each number, variant and seed."""
    rows = [
        (number.key, variant, seed, value)
        for number in numbers
        for variant, values in number.values.items()
        for seed, value in values.items()
    ]
    _csv(path, ["number", "variant", "seed", "value"], rows)


def latex(number: Number, groups: Sequence[Group]) -> str:
    """The table of a number, for the package booktabs."""
    lines = [
        r"\begin{tabular}{lrrr}",
        r"\toprule",
        rf"variant & {_escaped(number.heading)} & difference from {_escaped(number.baseline)} & seeds \\",
        r"\midrule",
    ]
    for group in groups:
        difference = _escaped(number.difference(group.name))
        if number.verdict(group.name):
            difference = rf"\textbf{{{difference}}}"
        seeds = len(number.values[group.name])
        lines.append(
            rf"{_escaped(group.name)} & {_escaped(number.mean(group.name))} & {difference} & {seeds} \\"
        )
    return "\n".join([*lines, r"\bottomrule", r"\end{tabular}"]) + "\n"


def _forest(groups: Sequence[Group], numbers: Sequence[Number], folder: Path) -> list[Path]:
    compared = forest.compared(numbers)
    if not compared:
        return []
    rows = [
        (number.key, name, found.mean, found.low, found.high)
        for number in compared
        for name, found in number.differences.items()
    ]
    path = folder / "forest.csv"
    _csv(path, ["number", "variant", "difference", "low", "high"], rows)
    return [*_pictures(forest.figure(compared, [group.name for group in groups]), folder / "forest"), path]


def _drawing(figure: display.Figure | display.Grid, stem: Path) -> list[Path]:
    """The files of a figure; none where it shows nothing."""
    path = stem.with_name(f"{stem.name}.csv")
    if isinstance(figure, display.Grid):
        if not figure.grids:
            return []
        cells = [
            (name, layer, head, value)
            for name, layers in figure.grids
            for layer, heads in enumerate(layers)
            for head, value in enumerate(heads)
        ]
        _csv(path, ["variant", "layer", "head", "value"], cells)
        return [*_pictures(figures.grids(figure), stem), path]
    if not figure.curves:
        return []
    _csv(path, ["variant", "curve", "x", "y", "low", "high"], _points(figure))
    return [*_pictures(figures.curves(figure), stem), path]


def _points(figure: display.Figure) -> Iterator[tuple[object, ...]]:
    """The points of a figure; the curves of a variant are counted from 0, one without a legend has its name, too."""
    names = {curve.run: curve.label for curve in figure.curves if curve.label is not None}
    count: dict[int, int] = {}
    for curve in figure.curves:
        index = count[curve.run] = count.get(curve.run, -1) + 1
        low, high = curve.band or ([None] * len(curve.x), [None] * len(curve.x))
        for point in zip(curve.x, curve.y, low, high, strict=True):
            yield names.get(curve.run, curve.run), index, *point


def _pictures(figure: Figure, stem: Path) -> list[Path]:
    document = stem.with_name(f"{stem.name}.pdf")
    with style.style():
        drawn = io.BytesIO()
        figure.savefig(drawn, format="pdf", metadata={"CreationDate": None})
    files.write(document, drawn.getvalue())
    return [*style.save(figure, stem), document]


def _csv(
    path: Path, header: Sequence[str], rows: Sequence[Sequence[object]] | Iterator[Sequence[object]]
) -> None:
    table = io.StringIO(newline="")
    writer = csv.writer(table)
    writer.writerow(header)
    writer.writerows(rows)
    files.write(path, table.getvalue())


def _escaped(text: str) -> str:
    """A text for LaTeX."""
    signs = {"−": "$-$", "±": r"$\pm$", "×": r"$\times$", "ε": r"$\varepsilon$", "Σ": r"$\Sigma$", "–": "--"}
    signs |= {sign: f"\\{sign}" for sign in "%&#_{}$"} | {"|": r"\textbar{}", "<": "$<$", ">": "$>$"}
    return "".join(signs.get(sign, sign) for sign in text)
