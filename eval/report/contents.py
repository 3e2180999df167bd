"""Everything a report says, whatever it is written as: the data file and plain text; `page` makes the HTML."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from textwrap import fill

from eval.report import comparison, pairs
from eval.report.collection import Measured
from eval.report.findings import checks, findings
from eval.report.numbers import Number, numbers
from eval.report.pairs import Group, groups
from eval.terminal import table


@dataclass(frozen=True)
class Report:
    """Everything a report shows.

    Attributes:
        title: of the page.
        given: the runs, in any order.
        environment: the machine and versions that made the report.
    """

    title: str
    given: Sequence[Measured]
    environment: dict[str, str]

    @cached_property
    def groups(self) -> list[Group]:
        """The runs by mechanism and seed, in the order of the page, which also decides their colours."""
        return groups(self.given)

    @property
    def runs(self) -> list[Measured]:
        """The runs in the order of the page."""
        return [run for group in self.groups for run in group.runs.values()]

    @cached_property
    def numbers(self) -> list[Number]:
        """Every number with its means and differences."""
        return numbers(self.groups)

    @property
    def headline(self) -> list[Number]:
        """The numbers of the first screen."""
        return [number for number in self.numbers if number.headline]

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
            "means": {
                number.key: {
                    name: {**asdict(mean), "seeds": list(number.values[name])}
                    for name, mean in number.means.items()
                }
                for number in self.numbers
            },
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
        """The comparison as plain text, a table per topic."""
        several = len(self.groups) < len(self.runs)
        tables = self._means() if several else self._runs()
        legend = "Means over seeds, in brackets the 95 % interval." if several else comparison.LEGEND
        gaps = [fill(line, 110) for run in self.runs for line in _gaps(run)]
        return "\n\n".join([*tables, "\n".join([fill(legend, 110), *gaps]), pairs.text(self.runs)])

    def _means(self) -> list[str]:
        """A table for each topic with the means of the mechanisms."""
        tables = []
        for topic in dict.fromkeys(number.group for number in self.numbers):
            mine = [number for number in self.numbers if number.group == topic]
            rows: list[dict[str, object]] = [
                {"mechanism": group.name, **{number.heading: number.mean(group.name) for number in mine}}
                for group in self.groups
            ]
            tables.append(f"{topic}\n{table(rows)}")
        return tables

    def _runs(self) -> list[str]:
        """A table for each topic with the numbers of the runs."""
        columns = comparison.columns(self.runs)
        tables = []
        for topic in dict.fromkeys(column.group for column in columns):
            rows: list[dict[str, object]] = [{"run": run.name} for run in self.runs]
            for column in (column for column in columns if column.group == topic):
                for row, cell in zip(rows, comparison.cells(column, self.runs), strict=True):
                    row[column.heading] = cell.text
            tables.append(f"{topic}\n{table(rows)}")
        return tables


def _gaps(run: Measured) -> list[str]:
    """The results that are missing or marked, a line for each reason."""
    named: dict[str, list[str]] = {}
    for name, reason in run.missing.items():
        named.setdefault(reason, []).append(name)
    for name, what in run.outdated.items():
        named.setdefault(f"† not as it would be measured now ({what})", []).append(name)
    return [f"{run.name}: {reason}: {', '.join(names)}." for reason, names in named.items()]
