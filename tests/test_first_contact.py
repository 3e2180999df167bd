"""The script of the first contact with a GPU gives every command arguments that it takes, rehearsed or not."""

import argparse
import os
import shlex
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import pytest

from attention import get, names
from attention.forms.chunked import Chunked

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "gpu_first_contact.sh"


class ParsedError(Exception):
    """The arguments were taken."""


def listed(*options: str) -> list[list[str]]:
    """The command lines, as lists of words, without the variables before them."""
    done = subprocess.run(["bash", SCRIPT, "--list", *options], capture_output=True, text=True, check=True)
    lines = [shlex.split(line) for line in done.stdout.splitlines()]
    return [[word for word in line if not word.startswith("TRITON_")] for line in lines]


COMMANDS = [(options, line) for options in ((), ("--rehearse",)) for line in listed(*options)]


@pytest.mark.parametrize(("options", "line"), COMMANDS, ids=lambda x: x[2] if len(x) > 2 else "".join(x))
def test_every_command_takes_its_arguments(options, line, monkeypatch):
    parse = argparse.ArgumentParser.parse_args

    def parsed(parser, *given):
        parse(parser, *given)
        raise ParsedError

    monkeypatch.setattr(argparse.ArgumentParser, "parse_args", parsed)
    python, flag, module, *arguments = line
    assert "python" in python
    assert flag == "-m"
    monkeypatch.setattr(sys, "argv", [module, *arguments])
    with pytest.raises(ParsedError):
        import_module(module if module != "attention.conformance" else f"{module}.__main__").main()


def test_a_rehearsal_tries_the_same_parts():
    found = [
        dict.fromkeys(line[2] for _, line in COMMANDS if _ == options) for options in ((), ("--rehearse",))
    ]
    assert found[0] == found[1]
    assert len(found[0]) == 4


def test_every_form_that_is_compiled_is_tried():
    (*_, line) = (line for options, line in COMMANDS if not options and line[2] == "attention.conformance")
    tried = line[line.index("--mechanism") + 1 : line.index("--check")]
    assert {get(name).form for name in tried} == {get(name).form for name in names()} - {Chunked}


def test_a_part_that_fails_is_told_and_the_next_one_begins(tmp_path):
    python = tmp_path / "python"
    python.write_text(
        '#!/bin/sh\necho "$2"; case $2 in *check) echo "it | broke"; exit 3;; *train) sleep 0;; esac\n'
    )
    python.chmod(0o700)
    out = tmp_path / "results"
    command = ["bash", SCRIPT, "--rehearse", out]
    done = subprocess.run(command, env=os.environ | {"PYTHON": str(python)}, capture_output=True, text=True)
    assert done.returncode == 1
    summary = (out / "summary.md").read_text()
    assert "| [check](check.log) | 0 | failed with status 3: it / broke |" in summary
    assert "| [training](training.log) | 0 | done |" in summary
    assert (out / "attention.log").read_text() == "benchmarks.bench_attention\n"


@pytest.mark.parametrize("wrong", [[], ["--fast", "folder"]])
def test_wrong_arguments_are_one_line(wrong):
    done = subprocess.run(["bash", SCRIPT, *wrong], capture_output=True, text=True)
    assert done.returncode == 2
    assert done.stderr.startswith("error: ")
    assert done.stderr.count("\n") == 1
