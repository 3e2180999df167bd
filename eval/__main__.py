"""`python -m eval <analysis> RUN [RUN ...]`: measure trained models and compare them in a table."""

import argparse
import sys
from collections.abc import Sequence
from typing import Any

from common.command import Parser, guarded
from data import DataConfig
from eval.analysis import Analysis, add_options, analyses, evaluate, get, read_options, table
from eval.subjects.opening import open_subject
from eval.subjects.subject import DTYPES, Subject
from models import ModelError
from storage.machine import default_device

USAGE = "python -m eval <analysis> RUN [RUN ...] [options]"


def main(arguments: Sequence[str] | None = None) -> None:
    """Parse the command line, run the analysis (or all of them) on every run, print the tables."""
    given = list(sys.argv[1:] if arguments is None else arguments)
    if not given or given[0] in ("-h", "--help"):
        print(overview())
        return
    name = given.pop(0)
    chosen = list(analyses().values()) if name == "all" else [get(name)]
    options = _parser(name, chosen).parse_args(given)
    # `all` runs every analysis as it is; options of single analyses would be ambiguous there.
    settings = [item.settings() if name == "all" else read_options(item.settings, options) for item in chosen]
    for analysis, setting in zip(chosen, settings, strict=True):
        if hasattr(analysis.module, "before"):
            analysis.module.before(setting)
    subjects = _open(options)
    refused = []
    for analysis, setting in zip(chosen, settings, strict=True):
        print(f"\n{analysis.name}: {analysis.summary}")
        try:
            print(table(_rows(analysis, setting, subjects, options.fresh)), flush=True)
        except ModelError as mistake:
            if name != "all":
                raise
            print(f"  not done: {mistake}", flush=True)
            refused.append(f"{analysis.name} ({mistake})")
    if refused:
        raise ModelError(f"all but these were done: {'; '.join(refused)}")


def overview() -> str:
    """The text of `--help`."""
    runs = [
        "RUN is a run directory, a directory with a Hugging Face causal language model,",
        "or package:NAME, an installed package that carries one as a GGUF file.",
    ]
    lines = [f"usage: {USAGE}", "", *runs, ""]
    entries = {name: analysis.summary for name, analysis in analyses().items()} | {
        "all": "Every analysis above."
    }
    width = max(map(len, entries))
    lines += [f"  {name.ljust(width)}  {summary}" for name, summary in entries.items()]
    return "\n".join([*lines, "", "python -m eval <analysis> --help shows the options of one."])


def _rows(analysis: Analysis, settings: Any, subjects: list[Subject], fresh: bool) -> list[dict[str, object]]:
    if analysis.together:
        return [analysis.module.run_all(subjects, settings)]
    rows = []
    for subject in subjects:
        result, reused = evaluate(analysis, subject, settings, fresh=fresh)
        path = subject.results / f"{analysis.name}.json"
        how = (
            "reused: same checkpoint and protocol; --fresh computes again"
            if reused
            else f"{result['seconds']} s"
        )
        print(f"  {subject.name}: {path} ({how})", flush=True)
        rows.append({"run": subject.name, "mechanism": subject.label, **analysis.row(result["results"])})
    return rows


def _open(options: argparse.Namespace) -> list[Subject]:
    subjects = [
        open_subject(
            run,
            step=options.step,
            device=options.device,
            dtype=options.dtype,
            text=options.text,
            field=options.field,
            batch_tokens=options.batch_tokens,
            results=options.results,
            allow_network=options.allow_network,
        )
        for run in options.runs
    ]
    folders = [subject.results.resolve() for subject in subjects]
    if len(set(folders)) < len(folders):
        raise ModelError(
            "two runs would write their results to one folder; give each run once, under its own name"
        )
    return subjects


def _parser(name: str, chosen: list[Analysis]) -> argparse.ArgumentParser:
    summary = "Every analysis, each with its default options." if name == "all" else chosen[0].summary
    parser = Parser(prog=f"python -m eval {name}", description=summary)
    parser.add_argument(
        "runs",
        nargs="+",
        metavar="RUN",
        help="run directory, directory of a Hugging Face model, or package:NAME",
    )
    if name != "all":
        add_options(parser.add_argument_group("options of this analysis"), chosen[0].settings)
    common = parser.add_argument_group("options of every analysis")
    common.add_argument("--step", type=int, metavar="N", help="checkpoint (default: the latest)")
    device = str(default_device())
    common.add_argument(
        "--device", default=device, metavar="TEXT", help=f"where to compute (default here: {device})"
    )
    common.add_argument(
        "--dtype", default="float32", metavar="TEXT", help=f"{', '.join(DTYPES)} (default: float32)"
    )
    common.add_argument(
        "--text", metavar="TEXT", help="file, folder or corpus (default: the run's held-out documents)"
    )
    common.add_argument(
        "--field", default=DataConfig.field, metavar="NAME", help="of the records of --text (default: text)"
    )
    common.add_argument(
        "--batch-tokens", type=int, default=8192, metavar="N", help="tokens at once (default: 8192)"
    )
    common.add_argument("--results", metavar="DIR", help="folder for results (default: RUN/eval)")
    common.add_argument(
        "--allow-network",
        action="store_true",
        help="open a corpus of the Hugging Face hub that a run's config names",
    )
    common.add_argument("--fresh", action="store_true", help="compute again what is there already")
    return parser


if __name__ == "__main__":
    guarded(main)
