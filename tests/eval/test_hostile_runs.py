"""Runs that somebody else made: what their files name is not followed, contacted or believed without a word."""

import json
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml

from common.command import guarded
from common.errors import InputError
from eval.__main__ import main
from eval.subject import open_subject
from tests.eval.conftest import RunMaker


@pytest.fixture
def run(make_run: RunMaker, tmp_path: Path) -> Path:
    return make_run("theirs", folder=tmp_path)


@pytest.fixture
def server() -> Iterator[tuple[str, list[str]]]:
    """An address of this machine, and what was asked of it."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            asked.append(self.path)
            self.send_error(404)

        do_HEAD = do_GET  # noqa: N815

    listening = HTTPServer(("127.0.0.1", 0), Handler)
    Thread(target=listening.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{listening.server_port}", asked
    listening.shutdown()
    listening.server_close()


def edit(run: Path, section: str, **changes: Any) -> None:
    config = yaml.safe_load((run / "config.yaml").read_text())
    config[section].update(changes)
    (run / "config.yaml").write_text(yaml.safe_dump(config))


def end(capsys: Any, *arguments: str) -> tuple[int, str]:
    with pytest.raises(SystemExit) as stop:
        guarded(lambda: main(arguments))
    shown = capsys.readouterr().err
    assert sum("is read now" not in line for line in shown.splitlines()) <= 1
    return int(stop.value.code or 0), shown


def test_a_secret_does_not_leave_the_machine(
    run: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: Any
) -> None:
    address, asked = server
    monkeypatch.setenv("MY_API_TOKEN", "s3cr3t")
    remote = {"corpus": "huggingface", "dataset": "json", "path": f"{address}/steal/${{oc.env:MY_API_TOKEN}}"}
    edit(run, "data", **remote)
    code, shown = end(capsys, "bottleneck", str(run), "--allow-network")
    assert code == 2
    assert "is a reference, which is not followed" in shown
    assert "s3cr3t" not in shown
    assert asked == []


def test_no_other_machine_is_asked_unless_that_is_allowed(
    run: Path, server: tuple[str, list[str]], monkeypatch: pytest.MonkeyPatch, capsys: Any, corpus: Path
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "0")
    address, asked = server
    edit(run, "data", corpus="huggingface", dataset="json", path=f"{address}/data.jsonl")
    code, shown = end(capsys, "bottleneck", str(run))
    assert code == 2
    assert f"names a corpus that may lie on another machine (json, {address}/data.jsonl)" in shown
    assert "--allow-network" in shown
    assert asked == []
    text = str(corpus / "00.txt")
    assert end(capsys, "bottleneck", str(run), "--text", text)[0] == 0
    assert asked == []


def test_a_local_file_that_a_config_names_is_named_to_the_reader(run: Path, capsys: Any) -> None:
    open_subject(run).held_out()
    assert "its config names the text " in capsys.readouterr().err
    edit(run, "data", path="/etc/hostname")
    code, shown = end(capsys, "bottleneck", str(run))
    assert code == 2
    assert shown.splitlines()[-1].startswith("error: ")


@pytest.mark.parametrize(
    ("section", "changes", "message"),
    [
        ("model", {"n_layer": 20_000}, "model.n_layer"),
        ("model", {"n_layer": "two"}, "model.n_layer must be an integer or null, got 'two'"),
        ("model", {"attention_options": 5}, "model.attention_options must be a section of keys and values"),
        ("model", {"rope_theta": float("inf")}, "model.rope_theta must be a number"),
        ("model", {"odd": 1}, "no field 'odd'"),
        ("data", {"held_out": "much"}, "config.yaml cannot be used"),
        ("data", {"odd": 1}, "config.yaml cannot be used"),
    ],
)
def test_a_damaged_config_is_one_line(
    run: Path, capsys: Any, section: str, changes: dict[str, Any], message: str
) -> None:
    edit(run, section, **changes)
    code, shown = end(capsys, "bottleneck", str(run))
    assert code == 2
    assert message in shown


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("config.yaml", b"model: 5", "model must be a section of keys and values, got 5"),
        ("config.yaml", b"model: {}\ndata: 5", "data must be a section of keys and values, got 5"),
        ("config.yaml", b"model: {}\nseed: [1]", "seed must be an integer, got [1]"),
        ("config.yaml", b"- 1", "must be a section"),
        ("config.yaml", b"a: &a [*a, *a]", "config.yaml"),
        ("config.yaml", b"[" * 5_000, "config.yaml"),
        ("config.yaml", b"\xff\xfe\x00", "is not UTF-8 text"),
        ("config.yaml", b"seed: " + b"1" * 5_000, "config.yaml"),
        ("run.json", b"{}", "no entry "),
        ("run.json", b"[]", "must be a section"),
        ("run.json", b"null", "must be a section"),
        ("run.json", b'{"tokenizer": 5, "train_length": 1}', "tokenizer must be a text, got 5"),
        ("run.json", b'{"tokenizer": "x", "train_length": "x"}', "train_length must be an integer, got 'x'"),
        (
            "run.json",
            b'{"tokenizer": "x", "train_length": true}',
            "train_length must be an integer, got True",
        ),
        ("run.json", b'{"tokenizer": "x", "train_length": 0}', "train_length must be at least 1"),
        ("run.json", b'{"tokenizer": "x", "train_length": 1e400}', "is too large"),
        ("run.json", b'{"tokenizer": "x", "train_length": NaN}', "NaN is no number"),
        ("run.json", b'{"train_length": 8, "tokenizer": "x", "command": null}', "command must be a list"),
        ("run.json", b'{"train_length": 8, "tokenizer": "x", "versions": [1]}', "versions must be a section"),
        ("run.json", b"[" * 100_000, "nested too deeply"),
        ("run.json", b"1" * 5_000, "is not readable JSON"),
    ],
)
def test_a_damaged_file_is_one_line(run: Path, file: str, content: bytes, message: str) -> None:
    (run / file).write_bytes(content)
    with pytest.raises(InputError) as refusal:
        open_subject(run)
    assert message in str(refusal.value)
    assert "\n" not in str(refusal.value)
    assert file in str(refusal.value)


def test_a_run_whose_data_was_never_recorded_is_evaluated_on_named_text_only(run: Path, capsys: Any) -> None:
    record = json.loads((run / "run.json").read_text())
    del record["data"]
    (run / "run.json").write_text(json.dumps(record))
    code, shown = end(capsys, "bottleneck", str(run))
    assert code == 2
    assert "name a text with --text" in shown
