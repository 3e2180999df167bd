"""Commands that pages show: read by the command's own parser, their configs resolved, nothing of them done."""

import argparse
import itertools
import os
import re
import runpy
import shlex
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from common.errors import InputError

ROOT = Path(__file__).parents[2]
ELSEWHERE = {
    "pip",
    "tensorboard",
    "apt-get",
    "time",
    "git",
    "for",
    "do",
    "done",
    ".",
    "cd",
    "ls",
    "compute-sanitizer",
}
"""What others wrote, or a shell knows."""

LAUNCHERS = {"accelerate", "torchrun"}


class Read(BaseException):
    """A parser has read its arguments; no exception, since commands make a line of any."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        super().__init__()
        self.arguments = arguments


def shown(page: Path) -> Iterator[str]:
    """The command lines of a page: of blocks for a shell, and of indented blocks that begin with a command."""
    text = page.read_text()
    blocks = re.findall(r"^```(?:sh|bash)\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    blocks += re.findall(r"(?:^ {4}(?:python|accelerate|torchrun) .*\n(?: {4}.*\n)*)+", text, re.MULTILINE)
    for block in blocks:
        for line in re.sub(r" *\\\n\s*", " ", block).splitlines():
            if line.strip():
                yield line.strip()


def check(line: str) -> None:
    """Read the commands of a line as their programs do.

    Raises:
        InputError, ValueError: the program has no such option, config or key, or nothing knows the program.
    """
    command = list[str]()
    for word in [*shlex.split(line, comments=True), "&&"]:
        if word == "&&" or word.endswith(";"):
            _one([*command, *([word[:-1]] if word[:-1].strip("&") else [])])
            command = []
        else:
            command.append(word)


def _one(words: list[str]) -> None:
    while words and re.fullmatch(r"[A-Z_0-9]+=.*", words[0]):
        words.pop(0)
    if not words or words[0] in ELSEWHERE or any("$" in word or "..." in word for word in words):
        return
    program, *arguments = words
    if program in LAUNCHERS:
        for option, value in itertools.pairwise(arguments):
            if option == "--config_file":
                assert Path(value).is_file(), value
        program, arguments = "python", arguments[arguments.index("train.py") :]
    if program == "sbatch":
        assert Path(arguments[0]).is_file(), arguments[0]
    elif program.endswith(".sh"):
        assert os.access(ROOT / program, os.X_OK), program
    elif program == "make":
        targets = re.findall(r"^([\w-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE)
        assert arguments[0] in targets, arguments
    elif program in ("python", "python3"):
        _python(arguments)
    else:
        raise ValueError(f"nothing here knows how to check {program!r}")


def _python(arguments: list[str]) -> None:
    if arguments[:2] == ["-m", "venv"]:
        return
    by_module = arguments[0] == "-m"
    name, given = (arguments[1], arguments[2:]) if by_module else (arguments[0], arguments[1:])
    read = _parsed(name, given, by_module=by_module)
    if read is None:
        return
    if (name == "train.py" and read.config is not None) or (name == "training.plan" and read.config):
        from training.config import load

        load(read.config, read.overrides)
    elif name == "data" and read.command == "prepare":
        from data.commandline import parse

        parse(read.options)
    elif name == "study":
        from study.definition import load as load_study

        study = load_study(read.file)
        for variant in study.variants:
            from training.config import load

            load(str(study.base), study.overrides(variant))


def _parsed(name: str, arguments: list[str], *, by_module: bool) -> argparse.Namespace | None:
    """What a program's first parser makes of its arguments; None where it leaves without reading any."""
    with pytest.MonkeyPatch.context() as patch, _stopped(patch):
        patch.setattr(sys, "argv", [name, *arguments])
        try:
            if by_module:
                runpy.run_module(name, run_name="__main__", alter_sys=False)
            else:
                runpy.run_path(str(ROOT / name), run_name="__main__")
        except Read as read:
            return read.arguments
        except SystemExit as end:
            if end.code not in (0, None):
                raise InputError(f"{name} {' '.join(arguments)}: refused") from end
    return None


@contextmanager
def _stopped(patch: pytest.MonkeyPatch) -> Iterator[None]:
    """Parsers raise what they have read."""
    for method in ("parse_args", "parse_intermixed_args"):
        original = getattr(argparse.ArgumentParser, method)

        def stop(self, *arguments, _read=original, **options):
            raise Read(_read(self, *arguments, **options))

        patch.setattr(argparse.ArgumentParser, method, stop)
    yield
