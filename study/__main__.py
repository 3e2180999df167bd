"""`python -m study <command> FILE`: train a grid of runs, measure them, and say what their numbers confirm or refute.

    run      start workers on what is left, and show how far they are
    status   how far the study is
    report   write runs/studies/NAME/report.html, .md, .json, forest.svg and numbers.csv: differences, verdicts, noise
    speed    measure training steps of all variants in turns; the report then has their speed
    export   write every figure as SVG, PNG, PDF and CSV, every table as CSV and LaTeX
    work     be one worker, in this process: `run` starts these, a cluster's own scripts may, too

A study is a YAML file, like those in configs/studies.
"""

import sys
from collections.abc import Callable, Sequence

from common.command import Parser, UsageError, guarded


def main(arguments: Sequence[str] | None = None) -> int | None:
    """Parse the command line and do what it says."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(__doc__)
        return None
    name, *rest = given
    if name not in COMMANDS:
        raise UsageError(f"unknown command {name!r}; there are {', '.join(COMMANDS)}")
    return COMMANDS[name](rest)


def _run(arguments: list[str]) -> int:
    parser = _parser("run", "Start workers on what is left of a study, and show how far they are.")
    parser.add_argument(
        "--workers", type=int, metavar="N", help="how many (default: one per core here, one job on a cluster)"
    )
    parser.add_argument(
        "--cluster", choices=("local", "slurm"), default="local", help="where (default: local)"
    )
    parser.add_argument(
        "--job",
        action="append",
        default=[],
        metavar="key=value",
        help="an option of the jobs, as submitit takes it: slurm_partition=gpu, gpus_per_node=1, timeout_min=600",
    )
    parser.add_argument("--again", action="store_true", help="also try again what failed")
    options = parser.parse_args(arguments)
    from study import command

    return command.run(options.file, options.workers, options.cluster, options.job, again=options.again)


def _status(arguments: list[str]) -> None:
    options = _parser("status", "Say how far a study is.").parse_args(arguments)
    from study import command

    command.status(options.file)


def _report(arguments: list[str]) -> None:
    parser = _parser("report", "Write means, differences, noise and verdicts of a study.")
    parser.add_argument("--write", metavar="DIR", help="copy the page to read and its numbers to DIR, too")
    options = parser.parse_args(arguments)
    from study import command

    command.report(options.file, options.write)


def _speed(arguments: list[str]) -> None:
    parser = _parser(
        "speed", "Measure training steps of all variants in turns, on a machine that does nothing else."
    )
    parser.add_argument("--rounds", type=int, default=15, metavar="N", help="steps of each (default: 15)")
    options = parser.parse_args(arguments)
    from study import command

    command.speed(options.file, options.rounds)


def _export(arguments: list[str]) -> None:
    parser = _parser("export", "Write every figure as SVG, PNG, PDF and CSV, every table as CSV and LaTeX.")
    parser.add_argument("folder", metavar="DIR", help="folder to write to")
    options = parser.parse_args(arguments)
    from study import command

    command.export(options.file, options.folder)


def _work(arguments: list[str]) -> None:
    parser = _parser("work", "Work on a study in this process until nothing is left to do.")
    parser.add_argument("--pin", metavar="I/N", help="keep to the cores of worker I of N on this machine")
    options = parser.parse_args(arguments)
    from study import command

    command.work(options.file, options.pin)


def _parser(name: str, summary: str) -> Parser:
    parser = Parser(prog=f"python -m study {name}", description=summary)
    parser.add_argument("file", metavar="FILE", help="YAML file of the study")
    return parser


COMMANDS: dict[str, Callable[[list[str]], int | None]] = {
    "run": _run,
    "status": _status,
    "report": _report,
    "speed": _speed,
    "export": _export,
    "work": _work,
}

if __name__ == "__main__":
    guarded(main)
