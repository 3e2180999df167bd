"""`python -m eval <analysis> RUN [RUN ...]`: measure trained models and compare them in a table."""

import sys
from collections.abc import Sequence

from common.command import guarded
from eval import catalogue

USAGE = "python -m eval <analysis> RUN [RUN ...] [options]"

EVERYTHING = "all"
REPORT = "report"

RUN = """RUN is a run directory, a folder of run directories, a directory with a Hugging Face causal
language model, or package:NAME, an installed package that carries one as a GGUF file."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the analysis (or all of them) on every run, print the tables."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return
    name, *rest = given
    commands = [*catalogue.names(), REPORT, EVERYTHING]
    if name not in commands:
        raise catalogue.unknown(name, commands)
    # Imported late: a list of names needs neither torch nor models.
    from eval import measuring

    chosen = catalogue.names() if name == EVERYTHING else [] if name == REPORT else [name]
    measuring.measure(f"python -m eval {name}", chosen, rest, report=name in (REPORT, EVERYTHING))


def overview() -> str:
    """The text of `--help`."""
    entries = {name: catalogue.summary(name) for name in catalogue.names()}
    entries[REPORT] = catalogue.source_docstring("eval.report.command").splitlines()[0]
    entries[EVERYTHING] = "Every analysis above with its default options, then the report."
    width = max(map(len, entries))
    lines = [f"  {name.ljust(width)}  {summary}" for name, summary in entries.items()]
    return "\n".join(
        [
            f"usage: {USAGE}",
            "",
            RUN,
            "",
            *lines,
            "",
            "python -m eval <analysis> --help shows the options of one.",
        ]
    )


if __name__ == "__main__":
    guarded(main)
