"""The work of `python -m eval`: options are read, subjects opened, analyses run and their tables printed."""

import argparse
from collections.abc import Callable, Sequence, Set
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from common.command import Parser
from common.errors import InputError
from data import DataConfig
from eval import catalogue, side_by_side
from eval.analysis import Analysis, evaluate
from eval.options import add_options, read_options
from eval.report import command as report_command
from eval.subject import expand, open_subject
from eval.subjects.base import DTYPES, Subject
from eval.terminal import table
from storage.allocation import keep_freed_memory
from storage.machine import default_device

Rows = list[dict[str, object]]


@dataclass(frozen=True)
class Step:
    """One thing to do with all subjects: its name, what it is, and the function that does it and gives a table."""

    name: str
    summary: str
    rows: Callable[[Sequence[Subject]], Rows]


def measure(program: str, names: Sequence[str], arguments: Sequence[str], *, report: bool) -> None:
    """Run analyses on the runs that a command line names.

    Args:
        program: how messages call it.
        names: of the analyses; more than one have their default options, since those of each would be ambiguous.
        arguments: of the command line.
        report: whether to write the report, too.
    """
    analyses = [catalogue.get(name) for name in names]
    settings: list[type] = [analysis.settings for analysis in analyses] or [report_command.Settings]
    single = settings[0] if len(settings) == 1 else None
    summaries = [catalogue.summary(name) for name in names] or [
        (report_command.__doc__ or "").splitlines()[0]
    ]
    parser = _parser(
        program, summaries[0] if single else "Every analysis, each with its default options.", single
    )
    options = parser.parse_intermixed_args(list(arguments))
    chosen = [kind() if single is None else read_options(kind, options) for kind in settings]
    for analysis, setting in zip(analyses, chosen, strict=False):
        analysis.before(setting)
    reported = _report(chosen[0] if not analyses else report_command.Settings()) if report else []
    keep_freed_memory()
    runs = expand(options.runs)
    subjects = _open(runs, options)
    pairs = list(zip(analyses, chosen, strict=False))
    reopen = partial(_open_one, options)
    several = single is None
    written = side_by_side.measure(subjects, runs, reopen, pairs, fresh=options.fresh) if several else set()
    steps = [
        Step(
            analysis.name,
            catalogue.summary(analysis.name),
            _measured(analysis, setting, options.fresh, written),
        )
        for analysis, setting in pairs
    ]
    _take([*steps, *reported], subjects)


def _take(steps: Sequence[Step], subjects: Sequence[Subject]) -> None:
    """Take all steps; of several, one that is refused does not cost the others."""
    refused = []
    for step in steps:
        print(f"\n{step.name}: {step.summary}")
        try:
            print(table(step.rows(subjects)), flush=True)
        except InputError as mistake:
            if len(steps) == 1:
                raise
            print(f"  not done: {mistake}", flush=True)
            refused.append(f"{step.name} ({mistake})")
    if refused:
        raise InputError(f"all but these were done: {'; '.join(refused)}")


def _measured(
    analysis: Analysis[Any, Any], settings: Any, fresh: bool, written: Set[Path]
) -> Callable[[Sequence[Subject]], Rows]:
    """Measures every subject; the table has a row for each, or what the analysis writes of all of them."""

    def rows(subjects: Sequence[Subject]) -> Rows:
        common = analysis.shared(subjects, settings)
        measured = []
        for subject in subjects:
            path = analysis.path(subject)
            found = evaluate(analysis, subject, common, fresh=fresh and path not in written)
            reused = "reused: same checkpoint and protocol; --fresh computes again"
            how = reused if found.reused and path not in written else f"{found.file['seconds']} s"
            print(f"  {subject.name}: {path} ({how})", flush=True)
            for note in analysis.notes(found.results):
                print(f"    {note}", flush=True)
            measured.append(found)
        if analysis.finish is not None:
            return [dict(analysis.finish(measured, common, subjects))]
        return [
            {"run": subject.name, "mechanism": subject.label, **analysis.row(found.results)}
            for subject, found in zip(subjects, measured, strict=True)
        ]

    return rows


def _report(settings: report_command.Settings) -> list[Step]:
    report_command.before(settings)
    summary = (report_command.__doc__ or "").splitlines()[0]
    return [Step("report", summary, lambda subjects: [report_command.write(subjects, settings)])]


def _open_one(options: argparse.Namespace, run: str) -> Subject:
    return open_subject(
        run,
        step=options.step,
        device=options.device,
        dtype=options.dtype,
        text=options.text,
        field=options.field,
        batch_tokens=options.batch_tokens,
        results=options.results,
        allow_network=options.allow_network,
        attention=options.attention,
    )


def _open(runs: Sequence[str], options: argparse.Namespace) -> list[Subject]:
    subjects = [_open_one(options, run) for run in runs]
    folders = [subject.results.resolve() for subject in subjects]
    if len(set(folders)) < len(folders):
        raise InputError(
            "two runs would write their results to one folder; give each run once, under its own name"
        )
    return subjects


def _parser(program: str, summary: str, settings: type | None) -> argparse.ArgumentParser:
    epilog = side_by_side.RULE if settings is None else None
    parser = Parser(prog=program, description=summary, epilog=epilog)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directory, folder of them, directory of a Hugging Face model, or package:NAME",
    )
    if settings is not None:
        add_options(parser.add_argument_group("options of this analysis"), settings)
    common = parser.add_argument_group("options of every analysis")
    common.add_argument("--step", type=int, metavar="N", help="checkpoint to open (default: the latest)")
    device = str(default_device())
    common.add_argument(
        "--device", default=device, metavar="TEXT", help=f"where to compute (default here: {device})"
    )
    common.add_argument(
        "--dtype", default="float32", metavar="TEXT", help=f"any of {', '.join(DTYPES)} (default: float32)"
    )
    common.add_argument(
        "--text", metavar="TEXT", help="file, folder or corpus (default: the run's held-out documents)"
    )
    common.add_argument(
        "--field",
        default=DataConfig.field,
        metavar="NAME",
        help="which field of the records of --text holds the text (default: text)",
    )
    common.add_argument(
        "--batch-tokens",
        type=int,
        default=8192,
        metavar="N",
        help="tokens to compute at once (default: 8192)",
    )
    common.add_argument("--results", metavar="DIR", help="folder for results (default: RUN/eval)")
    common.add_argument(
        "--allow-network",
        action="store_true",
        help="open a corpus of the Hugging Face hub that a run's config names",
    )
    common.add_argument(
        "--attention",
        metavar="zoo:NAME",
        help="a mechanism in place of a Hugging Face model's own attention, like zoo:softpick",
    )
    common.add_argument("--fresh", action="store_true", help="compute again what is there already")
    return parser
