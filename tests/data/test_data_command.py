"""python -m data."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from data import DataError, Prepared
from data.__main__ import main
from data.commandline import parse

ROOT = Path(__file__).parents[2]


def test_prepare_says_what_was_built(iambic: Prepared, cache: Path, monkeypatch, capsys) -> None:
    monkeypatch.setenv("ATTENTION_ZOO_CACHE", str(cache))
    monkeypatch.setattr(sys, "argv", ["data", "prepare"])
    main()
    said = capsys.readouterr().out
    assert re.search(r"train +121 documents +[\d,]+ bytes +[\d,]+ tokens +2\.\d+ bytes/token", said)
    assert f"vocabulary 1,024  fingerprint {iambic.fingerprint}" in said


def test_overrides_are_typed() -> None:
    config = parse(
        ["corpus=text", 'separator="\\n\\n"', "held_out=0.2", "tokenizer.vocab_size=512", "subset=null"]
    )
    assert (config.corpus, config.separator, config.held_out, config.tokenizer.vocab_size) == (
        "text",
        "\n\n",
        0.2,
        512,
    )


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["corpse=sotu"], "unknown option 'corpse'; did you mean 'corpus'?"),
        (["tokenizer.vocab=3"], "unknown option 'tokenizer.vocab'; did you mean 'vocab_size'?"),
        (["tokenizer.vocab_size=many"], "tokenizer.vocab_size: Value 'many'"),
        (["tokenizer=4"], "is not a subclass of TokenizerConfig"),
        (["a.yaml", "sotu"], "one config is read, got a.yaml and sotu; options must read key=value"),
        (["seed=1:30"], "option 'seed=1:30': YAML reads 1:30 in base sixty"),
    ],
)
def test_overrides_that_do_not_parse(overrides: list[str], message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        parse(overrides)
    assert "\n" not in str(caught.value)


def test_a_config_of_training_says_what_is_prepared(tmp_path: Path) -> None:
    (tmp_path / "base.yaml").write_text(
        "data: {corpus: sotu, tokenizer: {vocab_size: 512}}\nmodel: {n_layer: 1}"
    )
    (tmp_path / "mine.yaml").write_text("extends: base.yaml\ndata: {held_out: 0.2}")
    config = parse([str(tmp_path / "mine.yaml"), "data.tokenizer.kind=char", "seed=3"])
    assert (config.corpus, config.tokenizer.vocab_size, config.tokenizer.kind) == ("sotu", 512, "char")
    assert (config.held_out, config.seed) == (0.2, 3)


@pytest.mark.parametrize(
    ("section", "message"),
    [
        ("{path: 007}", "path must be a text, got 7; in quotes it is one"),
        ("{path: '${oc.env:HOME}'}", "path: '${oc.env:HOME}' is a reference, which is not followed"),
        ("{tokenizer: {kind: no}}", "tokenizer.kind must be a text, got False"),
        ("{held_out: true}", "held_out must be a number, got True"),
        ("text.txt", "'data' is a section"),
    ],
)
def test_a_config_is_read_as_training_reads_it(section: str, message: str, tmp_path: Path) -> None:
    (tmp_path / "mine.yaml").write_text(f"data: {section}\n")
    with pytest.raises(DataError, match=re.escape(message)):
        parse([str(tmp_path / "mine.yaml")])


@pytest.mark.slow
def test_a_mistake_is_one_line_and_exit_code_2(tmp_path: Path) -> None:
    done = subprocess.run(
        [sys.executable, "-m", "data", "prepare", "corpus=jsonl", "path=nowhere"],
        cwd=ROOT,
        env=os.environ | {"ATTENTION_ZOO_CACHE": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert (done.returncode, done.stdout, done.stderr) == (2, "", "error: no such file or folder: nowhere\n")
