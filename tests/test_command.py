"""The boundary of the command lines: one line and an exit code, whatever happens behind it."""

import errno
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import omegaconf
import pytest
import torch
import yaml
from safetensors import SafetensorError, safe_open

from attention import AttentionError
from attention import command as attention_command
from common import command, explain
from data import DataError
from models import ModelError

ROOT = explain.ROOT


def _raise(error: BaseException) -> None:
    raise error


def _end(error: BaseException, capsys: Any) -> tuple[int, str]:
    with pytest.raises(SystemExit) as end:
        command.guarded(lambda: _raise(error))
    shown = capsys.readouterr().err
    assert shown.count("\n") <= 1
    return int(end.value.code or 0), shown


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (ModelError("no run at x"), "error: no run at x\n"),
        (DataError("no such file"), "error: no such file\n"),
        (AttentionError("unknown mechanism"), "error: unknown mechanism\n"),
        (command.UsageError("wrong option"), "error: wrong option\n"),
        (OSError(errno.ENOSPC, "No space left on device", "/x/y"), "/x/y: No space left on device; make room"),
        (PermissionError(errno.EACCES, "Permission denied", "/x"), "/x: Permission denied; check its owner"),
        (OSError(errno.ENAMETOOLONG, "File name too long", "y" * 4200), "File name too long; choose a shorter"),
        (MemoryError(), "out of memory (MemoryError); take fewer tokens"),
        (RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"), "out of memory"),
        (torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9 GiB"), "Tried to allocate 9 GiB"),
        (RuntimeError("[enforce fail at inline_container.cc:672] . unexpected pos"), "is the disk full?"),
        (SafetensorError("incomplete metadata"), "cannot read a safetensors file: incomplete metadata"),
        (yaml.YAMLError("odd\nlines"), "cannot read a YAML file: odd\n"),
        (omegaconf.errors.ConfigKeyError("no key"), "cannot read a config: no key"),
        (json.JSONDecodeError("Expecting value", "x", 0), "cannot read a JSON file: Expecting value"),
        (UnicodeDecodeError("utf-8", b"\xff", 0, 1, "invalid start byte"), "not UTF-8 text (invalid start byte"),
        (ModuleNotFoundError("No module named 'hqq'", name="hqq"), "package hqq is not installed: pip install -e"),
    ],
)  # fmt: skip
def test_what_a_user_can_mend_is_one_line_and_exit_2(error: Exception, words: str, capsys: Any) -> None:
    code, shown = _end(error, capsys)
    assert code == 2
    assert words in shown
    assert len(shown) < 700


def test_a_fault_of_ours_is_one_line_that_says_where_and_exit_1(capsys: Any, monkeypatch: Any) -> None:
    code, shown = _end(KeyError("weights"), capsys)
    assert code == 1
    assert shown.startswith("error: unexpected KeyError at test_command.py:")
    assert "ATTENTION_ZOO_TRACEBACK=1" in shown
    monkeypatch.setenv("ATTENTION_ZOO_TRACEBACK", "1")
    with pytest.raises(SystemExit):
        command.guarded(lambda: _raise(KeyError("weights")))
    assert "Traceback" in capsys.readouterr().err


@pytest.mark.parametrize("guarded", [command.guarded, attention_command.guarded])
def test_a_traceback_is_shown_where_it_is_asked_for(guarded: Any, capsys: Any, monkeypatch: Any) -> None:
    for asked in (False, True):
        monkeypatch.setenv("ATTENTION_ZOO_TRACEBACK", "1" if asked else "")
        with pytest.raises(SystemExit):
            guarded(lambda: _raise(AttentionError("unknown mechanism")))
        shown = capsys.readouterr().err
        assert shown.endswith("error: unknown mechanism\n")
        assert ("Traceback" in shown) == asked


def test_control_characters_and_long_messages_do_not_reach_the_terminal(capsys: Any) -> None:
    _, shown = _end(ModelError("name \x1b]0;evil\x07 " + "x" * 9000 + " end"), capsys)
    assert "\x1b" not in shown
    assert "\\x1b]0;evil" in shown
    assert shown.endswith(" end\n")
    assert len(shown) < 700


def test_ctrl_c_and_a_clean_end_say_nothing(capsys: Any) -> None:
    assert _end(KeyboardInterrupt(), capsys) == (130, "")
    with pytest.raises(SystemExit) as end:
        command.guarded(lambda: 3)
    assert end.value.code == 3


def test_only_the_first_process_speaks_at_once(monkeypatch: Any, capsys: Any) -> None:
    """The others wait for the launcher to end them, and speak if it does not."""
    waited: list[float] = []
    monkeypatch.setattr(command.time, "sleep", waited.append)
    monkeypatch.setenv("RANK", "0")
    assert _end(ModelError("x"), capsys) == (2, "error: x\n")
    assert waited == []
    monkeypatch.setenv("RANK", "1")
    assert _end(ModelError("x"), capsys) == (2, "error (process 1): x\n")
    assert waited == [command.GRACE]
    monkeypatch.setenv("RANK", "0")
    lost = RuntimeError("[gloo/transport/tcp/pair.cc:534] Connection closed by peer [127.0.0.1]:1")
    code, shown = _end(lost, capsys)
    assert code == 2
    assert "another process of this run has ended" in shown
    assert len(waited) == 2


@pytest.mark.slow
def test_a_closed_pipe_ends_in_silence() -> None:
    code = "from common import command\ncommand.guarded(lambda: [print(i) for i in range(10**6)] and None)"
    with subprocess.Popen(
        [sys.executable, "-c", code], cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        process.stdout.readline()
        process.stdout.close()
        assert process.stderr.read() == b""
        assert process.wait() == 141


@pytest.mark.slow
@pytest.mark.parametrize(
    "arguments",
    [["train.py", "x"], ["-m", "attention"], ["-m", "data"], ["-m", "models.generate", "x"], ["-m", "eval"]],
)
def test_a_python_without_the_project_installed_says_so_in_one_line(arguments: list[str]) -> None:
    """-S leaves out site-packages: no torch, as in a shell where nothing was activated."""
    done = subprocess.run(
        [sys.executable, "-S", *arguments], cwd=ROOT, capture_output=True, text=True, env=os.environ
    )
    assert done.returncode == 2
    assert done.stderr.startswith("error: torch, ")
    assert "make install" in done.stderr
    assert done.stderr.count("\n") == 1


def test_a_parser_complains_in_one_line(capsys: Any) -> None:
    parser = command.Parser(prog="zoo")
    parser.add_argument("--steps", type=int)
    with pytest.raises(SystemExit) as end:
        command.guarded(lambda: parser.parse_args(["--steps", "many"]) and None)
    assert end.value.code == 2
    assert capsys.readouterr().err == "error: argument --steps: invalid int value: 'many' (see zoo --help)\n"


def test_a_file_that_a_library_refuses_is_named_as_such(tmp_path: Path, capsys: Any) -> None:
    (tmp_path / "x.safetensors").write_bytes(b"\x00" * 4)

    def main() -> None:
        with safe_open(tmp_path / "x.safetensors", "pt"):
            pass

    with pytest.raises(SystemExit) as end:
        command.guarded(main)
    assert end.value.code == 2
    assert "cannot read a safetensors file" in capsys.readouterr().err
