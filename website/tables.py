"""Tables of Markdown pages, read: what benchmarks and checks wrote is what a mechanism's page shows of it."""

import re
from collections.abc import Iterator
from dataclasses import dataclass

_LINK = re.compile(r"\[([^\]]*)\]\([^)]*\)")


@dataclass(frozen=True)
class Table:
    """A table under its heading.

    Attributes:
        heading: the nearest heading above it.
        header: names of its columns.
        rows: cells of each row, as written.
    """

    heading: str
    header: list[str]
    rows: list[list[str]]

    def about(self, name: str) -> list[list[str]]:
        """Rows whose first cell is this name, alone or followed by something that says more."""
        return [row for row in self.rows if re.match(rf"{re.escape(name)}(?![\w(])", plain(row[0]))]


def tables(markdown: str) -> Iterator[Table]:
    """Every table of a page, in order."""
    heading, block = "", list[str]()
    for line in [*markdown.splitlines(), ""]:
        if line.startswith("|"):
            block.append(line)
            continue
        if len(block) > 2:
            header, _, *rows = map(_cells, block)
            yield Table(heading, header, rows)
        block = []
        if line.startswith("#"):
            heading = line.lstrip("# ")


def plain(cell: str) -> str:
    """The text of a cell without its marks."""
    return _LINK.sub(r"\1", cell).replace("`", "").replace("*", "").strip()


def _cells(line: str) -> list[str]:
    return [cell.strip() for cell in re.split(r"(?<!\\)\|", line.strip()[1:-1])]
