"""Everything a report says, whatever it is written as: the data file and plain text; `page` makes the HTML."""

import json
from dataclasses import asdict, dataclass
from textwrap import fill

from eval.report import comparison, pairs
from eval.report.collection import Measured
from eval.report.findings import checks, findings
from eval.terminal import table


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Attributes:
        title: of the page.
        runs: in the order of the page, which also decides their colours.
        environment: the machine and versions that made the report.
    """

    title: str
    runs: list[Measured]
    environment: dict[str, str]

    def json(self) -> str:
        """The data file."""
        columns = [
            {name: getattr(column, name) for name in ("key", "group", "title", "unit", "better", "source")}
            | {"cells": [asdict(cell) for cell in comparison.cells(column, self.runs)]}
            for column in comparison.columns(self.runs)
        ]
        data = {
            "title": self.title,
            "runs": [asdict(run) for run in self.runs],
            "columns": columns,
            "paired": {
                column.key: [asdict(paired) for paired in pairs.compare(column, self.runs)]
                for column in pairs.columns(self.runs)
            },
            "findings": findings(self.runs),
            "checks": [asdict(check) for check in checks(self.runs)],
            "environment": self.environment,
        }
        return json.dumps(data, indent=1, allow_nan=False) + "\n"

    def text(self) -> str:
        """The comparison as plain text, a table per topic; the best numbers are starred."""
        columns = comparison.columns(self.runs)
        tables = []
        for group in dict.fromkeys(column.group for column in columns):
            rows: list[dict[str, object]] = [{"run": run.name} for run in self.runs]
            for column in (column for column in columns if column.group == group):
                for row, cell in zip(rows, comparison.cells(column, self.runs), strict=True):
                    row[column.heading] = cell.text + ("*" if cell.best else "")
            tables.append(f"{group}\n{table(rows)}")
        legend = fill(f"{comparison.LEGEND} Marked: *.", 110)
        gaps = [fill(line, 110) for run in self.runs for line in _gaps(run)]
        return "\n\n".join([*tables, "\n".join([legend, *gaps]), pairs.text(self.runs)])


def _gaps(run: Measured) -> list[str]:
    """The results that are missing or marked, a line for each reason."""
    named: dict[str, list[str]] = {}
    for name, reason in run.missing.items():
        named.setdefault(reason, []).append(name)
    for name, what in run.outdated.items():
        named.setdefault(f"† not as it would be measured now ({what})", []).append(name)
    return [f"{run.name}: {reason}: {', '.join(names)}." for reason, names in named.items()]
