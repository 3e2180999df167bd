"""`python -m eval.lm_eval`: lm-eval's own command, which says in one line what is wrong with a command line."""

import argparse
import io
import re
import sqlite3
import traceback
from collections.abc import Mapping
from contextlib import closing, redirect_stderr
from pathlib import Path
from typing import Any

from lm_eval._cli import HarnessCLI
from lm_eval.config.evaluate_config import EvaluatorConfig
from lm_eval.utils import setup_logging

from common.command import UsageError, guarded
from common.explain import explain, is_source, said
from eval.lm_tasks.chosen import near

HELP = "(see python -m eval.lm_eval run --help)"


def main() -> None:
    """Hand the command line over to lm-eval.

    Raises:
        UsageError: what lm-eval says of an option, a name or a file that it cannot take: an error that no code of this
            project had a part in.
    """
    setup_logging()
    command, arguments = HarnessCLI(), argparse.Namespace()
    try:
        arguments = _parsed(command)
        if arguments.command == "run":
            _check(_told(arguments))
        command.execute(arguments)
    except Exception as error:
        frames = traceback.extract_tb(error.__traceback__)
        if explain(error) or any(
            is_source(frame.filename) and frame.filename != __file__ for frame in frames
        ):
            raise
        hint = _near_tasks(said(error), getattr(arguments, "include_path", None))
        raise UsageError(f"{said(error).rstrip('.')}{hint} {HELP}") from error


def _parsed(command: HarnessCLI) -> argparse.Namespace:
    complaint = io.StringIO()
    try:
        with redirect_stderr(complaint):
            return command.parse_args()
    except SystemExit as ended:
        if not ended.code:
            raise
        *_, last = complaint.getvalue().strip().split(": error: ")
        raise UsageError(f"{last} {HELP}") from None


def _told(arguments: argparse.Namespace) -> dict[str, Any]:
    """What the command line says, and below it the file of --config."""
    told = {} if arguments.config is None else EvaluatorConfig.load_yaml_config(arguments.config)
    return told | {name: value for name, value in vars(arguments).items() if value is not None}


def _check(told: Mapping[str, Any]) -> None:
    """Refuse what lm-eval takes and then stumbles over, or computes nothing of."""
    limit, examples, cache = (told.get(name) for name in ("limit", "num_fewshot", "use_cache"))
    if not told.get("tasks"):
        raise UsageError(f"--tasks is missing: names (python -m eval.lm_eval ls tasks) or .yaml files {HELP}")
    if limit is not None and not (isinstance(limit, int | float) and limit > 0):
        raise UsageError(
            f"--limit must be above 0, a number of questions, or below 1 a share, got {limit} {HELP}"
        )
    if examples is not None and not (isinstance(examples, int) and examples >= 0):
        raise UsageError(f"--num_fewshot must be at least 0, got {examples} {HELP}")
    if cache is not None:
        _check_cache(str(cache))


def _check_cache(named: str) -> None:
    """Open the cache of answers as lm-eval will, which does it in a thread whose errors are tracebacks."""
    file = Path(f"{named}_rank0.db")
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with closing(sqlite3.connect(file)) as cache:
            cache.execute("BEGIN IMMEDIATE")
            cache.rollback()
    except (OSError, sqlite3.Error) as error:
        raise UsageError(f"--use_cache {named}: {file} cannot be used: {error} {HELP}") from error


def _near_tasks(complaint: str, include: str | None) -> str:
    """The tail of a message about unknown tasks: names like theirs."""
    from lm_eval.tasks import TaskManager

    if not (found := re.fullmatch("Tasks not found: (.*)", complaint)):
        return ""
    known = TaskManager(include_path=include).all_tasks
    return "".join(near(name, known) for name in found[1].split(", "))


if __name__ == "__main__":
    guarded(main)
