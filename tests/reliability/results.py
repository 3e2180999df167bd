"""Files of a run that are damaged, under `python -m eval`.

A byte is flipped, a file is cut, emptied or removed, or one of its values is replaced by another of any type: in a
result file, the record, the config, the log or the tokenizer of a run. Then an analysis or the report is asked for.
Survived is the right answer (a damaged result is measured again, or missing from the report), or exit 2 and one line.
"""

import contextlib
import io
import json
import os
import random
import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from common.command import guarded
from data import DataConfig, TokenizerConfig
from eval.__main__ import main
from eval.results import read
from storage import log
from tests.eval.conftest import prose, untrained_run
from tests.reliability.trial import Trial

COUNT, FEW = 400, 16
FILES = ["eval/activations.json"] * 4
FILES += ["run.json", "run.json", "config.yaml", "config.yaml", "metrics.jsonl", "tokenizer.model"]
VALUES = [
    "null",
    "5",
    "-1",
    "1e400",
    "NaN",
    "Infinity",
    "true",
    "[]",
    "{}",
    "[1]",
    '{"a":1}',
    '"x"',
    '""',
    "1e9",
]
VALUES += ["9" * 5000, "[" * 5000]
OPTIONS = ["--sequences", "2", "--length", "24"]


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Damage a copy of a run `count` times."""
    with tempfile.TemporaryDirectory() as home, _cache(Path(home) / "cache"):
        whole = _run(Path(home))
        assert _command("activations", str(whole), *OPTIONS)[0] == 0
        truth = read(whole / "eval" / "activations.json")
        assert truth is not None
        for number in range(count):
            chance = random.Random(f"{seed}:{number}")
            run = shutil.copytree(whole, Path(home) / str(number) / "run")
            file, how = chance.choice(FILES), chance.choice(list(DAMAGE))
            DAMAGE[how](run / file, chance)
            what = chance.choice(["activations", "activations", "report"])
            options = OPTIONS if what == "activations" else []
            code, said = _command(what, str(run), *options)
            outcome, failure = _verdict(what, run, code, said, truth["results"])
            yield Trial(
                f"{Path(file).name}, {how}", f"{what}, --seed {seed}, number {number}", outcome, failure
            )
            shutil.rmtree(run.parent)


def _verdict(what: str, run: Path, code: int, said: str, truth: Any) -> tuple[str, str]:
    lines = said.strip().splitlines()
    # A notice of what a run's config names may come first.
    errors = [line for line in lines if line.startswith("error: ")]
    if code == 2 and errors == lines[-1:] and "Traceback" not in said:
        return "exit 2 and one line", ""
    if code != 0:
        return "", f"exit {code}: {lines[-1:]}"
    if what == "activations":
        found = read(run / "eval" / "activations.json")
        right = found is not None and found["results"] == truth
        return "the right numbers", "" if right else "other numbers"
    shown = json.loads((run.parent / "report.json").read_text())["runs"][0]["results"]
    wrong = "activations" in shown and shown["activations"]["results"] != truth
    return "the right report, or a gap in it", "a damaged number is shown" if wrong else ""


def _flip(file: Path, chance: random.Random) -> None:
    content = bytearray(file.read_bytes())
    content[chance.randrange(len(content))] ^= 1 << chance.randrange(8)
    file.write_bytes(content)


def _cut(file: Path, chance: random.Random) -> None:
    content = file.read_bytes()
    file.write_bytes(content[: chance.randrange(len(content))])


def _replace(file: Path, chance: random.Random) -> None:
    """Another value in the place of one, at any depth, by text: a YAML or JSON value runs to the end of its line."""
    lines = file.read_text(errors="replace").splitlines()
    places = [place for place, line in enumerate(lines) if ":" in line] or [0]
    place = chance.choice(places)
    comma = "," if lines[place].rstrip().endswith(",") else ""
    lines[place] = f"{lines[place].partition(':')[0]}: {chance.choice(VALUES)}{comma}"
    file.write_text("\n".join(lines) + "\n")


def _whole_replaced(file: Path, chance: random.Random) -> None:
    file.write_text(chance.choice(VALUES))


DAMAGE = {
    "a bit flipped": _flip,
    "cut": _cut,
    "empty": lambda file, chance: file.write_bytes(b""),
    "missing": lambda file, chance: file.unlink(),
    "a value replaced": _replace,
    "all of it replaced": _whole_replaced,
    "a folder": lambda file, chance: (file.unlink(), file.mkdir()),
}


def _command(*arguments: str) -> tuple[int, str]:
    complaint = io.StringIO()
    try:
        with contextlib.redirect_stderr(complaint), contextlib.redirect_stdout(io.StringIO()):
            guarded(lambda: main(arguments))
    except SystemExit as end:
        return int(end.code or 0), complaint.getvalue()
    raise AssertionError("guarded always exits")


def _run(home: Path) -> Path:
    texts = home / "texts"
    texts.mkdir()
    for number in range(8):
        (texts / f"{number}.txt").write_text(prose(number, 150))
    data = DataConfig(corpus="text", path=str(texts), held_out=0.4, tokenizer=TokenizerConfig(vocab_size=320))
    shape = {"n_layer": 1, "n_head": 2, "d_model": 16, "d_ff": 16, "max_length": 64}
    run = untrained_run(home / "whole", data, 32, **shape)
    for step in (1, 2, 3):
        log.append(run, {"step": step, "loss": 5.0 - step, "tokens": step * 64, "tokens_per_second": 10.0})
    return run


@contextlib.contextmanager
def _cache(folder: Path) -> Iterator[None]:
    before = os.environ.get("ATTENTION_ZOO_CACHE")
    os.environ["ATTENTION_ZOO_CACHE"] = str(folder)
    try:
        yield
    finally:
        del os.environ["ATTENTION_ZOO_CACHE"]
        if before is not None:
            os.environ["ATTENTION_ZOO_CACHE"] = before
