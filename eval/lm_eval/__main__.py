"""`python -m eval.lm_eval`: lm-eval's own command, which says in one line what is wrong with a command line."""

import argparse
import io
import re
import traceback
from contextlib import redirect_stderr
from pathlib import Path

import lm_eval
from lm_eval._cli import HarnessCLI
from lm_eval.utils import setup_logging

from common.command import UsageError, guarded
from common.explain import said
from eval.lm_tasks.chosen import near

FOLDER = Path(lm_eval.__file__).parent
READERS = tuple(str(FOLDER / part) for part in ("_cli", "config", "tasks", "api/registry.py"))
"""lm-eval's code that reads what a user gave: an error that is raised there is about that."""

HELP = "(see python -m eval.lm_eval run --help)"


def main() -> None:
    """Hand the command line over to lm-eval.

    Raises:
        UsageError: what lm-eval says of an option, a name or a file that it cannot take.
    """
    setup_logging()
    command, arguments = HarnessCLI(), argparse.Namespace()
    try:
        arguments = _parsed(command)
        if arguments.command == "run" and not (arguments.tasks or arguments.config):
            raise UsageError(
                f"--tasks is missing: names (python -m eval.lm_eval ls tasks) or .yaml files {HELP}"
            )
        command.execute(arguments)
    except (FileNotFoundError, KeyError, TypeError, ValueError) as error:
        if not traceback.extract_tb(error.__traceback__)[-1].filename.startswith(READERS):
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


def _near_tasks(complaint: str, include: str | None) -> str:
    """The tail of a message about unknown tasks: names like theirs."""
    from lm_eval.tasks import TaskManager

    if not (found := re.fullmatch("Tasks not found: (.*)", complaint)):
        return ""
    known = TaskManager(include_path=include).all_tasks
    return "".join(near(name, known) for name in found[1].split(", "))


if __name__ == "__main__":
    guarded(main)
