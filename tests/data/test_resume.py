"""A preparation that is killed goes on where it was, on any number of processes, to the same bytes."""

import os
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path
from typing import Any

import numpy as np
import psutil
import pytest

from data import DataConfig, DataError, Prepared, TokenizerConfig, parts, prepare, survey, workers
from data.errors import StoppedError
from data.parts import Parts
from data.workers import in_order

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(jsonl, monkeypatch: pytest.MonkeyPatch) -> DataConfig:
    """120 documents of some 4 kB, in parts of 40 kB and batches of 8 kB."""
    chance = np.random.RandomState(0)
    letters = [chr(97 + number % 26) * (1 + number % 5) for number in range(90)]
    texts = [" ".join(letters[place] for place in chance.randint(0, 90, 1000)) for _ in range(120)]
    monkeypatch.setattr(parts, "SIZE", 40_000)
    monkeypatch.setattr(survey, "BATCH", 8_000)
    monkeypatch.setattr("data.encoding.BATCH", 8_000)
    return DataConfig(
        corpus="jsonl", path=jsonl(texts), tokenizer=TokenizerConfig(kind="char", vocab_size=300)
    )


def files(cache: Path) -> dict[str, bytes]:
    """All that was built, by the path in the cache, but for when."""
    found = {str(file.relative_to(cache)): file for file in cache.rglob("*") if file.is_file()}
    return {name: file.read_bytes() for name, file in found.items() if file.suffix not in (".lock", ".json")}


def content(prepared: Prepared) -> tuple[object, ...]:
    return prepared.fingerprint, [
        np.asarray(shard.tokens).tolist() for shard in (prepared.train, prepared.valid)
    ]


def lives(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


@pytest.mark.slow
@pytest.mark.parametrize("stage", ["survey", "encoding"])
def test_killed_in_the_middle(
    config: DataConfig, stage: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = prepare(config, tmp_path / "undisturbed")
    code = f"""
        import os, pathlib, psutil, signal
        from data import DataConfig, TokenizerConfig, parts, prepare, survey, encoding
        parts.SIZE, survey.BATCH, encoding.BATCH = 40_000, 8_000, 8_000
        commit = parts.Parts.commit
        def commit_and_die(self, number, files, **facts):
            commit(self, number, files, **facts)
            if number == 2 and {stage == "survey"} == ("strata" in facts):
                found = [child.pid for child in psutil.Process().children()]
                pathlib.Path({str(tmp_path / "workers")!r}).write_text(" ".join(map(str, found)))
                os.kill(os.getpid(), signal.SIGKILL)
        parts.Parts.commit = commit_and_die
        tokenizer = TokenizerConfig(kind="char", vocab_size=300)
        prepare(DataConfig(corpus="jsonl", path={config.path!r}, tokenizer=tokenizer), {str(tmp_path)!r})
    """
    environment = os.environ | {"ATTENTION_ZOO_WORKERS": "2"}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(code)], cwd=ROOT, env=environment, timeout=120, check=False
    )
    assert done.returncode == -signal.SIGKILL
    left = [int(pid) for pid in (tmp_path / "workers").read_text().split()]
    assert len(left) == 2
    until = time.monotonic() + 20
    while any(map(lives, left)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not any(map(lives, left)), "workers end with the process that started them"
    committed = []

    def commit(self: Parts, number: int, files: Any, **facts: Any) -> None:
        committed.append(("survey" if "strata" in facts else "encoding", number))
        original(self, number, files, **facts)

    original = Parts.commit
    monkeypatch.setattr(Parts, "commit", commit)
    assert content(prepare(config, tmp_path)) == content(undisturbed)
    assert min(number for of_stage, number in committed if of_stage == stage) == 3
    assert max(number for _, number in committed) >= 5
    again = {name: found for name, found in files(tmp_path).items() if name.startswith(("text-", "shards-"))}
    assert len(again) > 10
    assert again.items() <= files(tmp_path / "undisturbed").items()


@pytest.mark.slow
def test_a_part_that_was_damaged_meanwhile_is_made_again(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    undisturbed = prepare(config, tmp_path / "undisturbed")

    def stop(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr("data.encoding._join", stop)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, tmp_path)
    (second,) = tmp_path.glob(".shards-*/train-00001.uint16")
    second.write_bytes(bytes(len(second.read_bytes())))
    assert content(prepare(config, tmp_path)) == content(undisturbed)


@pytest.mark.slow
@pytest.mark.parametrize("count", [1, 2, 3])
def test_any_number_of_workers_gives_the_same(
    config: DataConfig, count: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(workers.WORKERS, str(count))
    monkeypatch.setattr(workers, "AT_ONCE", 1 << 30 if count == 1 else 2)
    prepared = prepare(config, tmp_path)
    monkeypatch.setenv(workers.WORKERS, "1")
    assert content(prepared) == content(prepare(config, tmp_path / "alone"))
    assert len(prepared.train.files) > 5


@pytest.mark.slow
def test_text_that_changes_while_it_is_read_is_noticed(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def change(folder: Path, corpus: object) -> None:
        original(folder, corpus)
        text = Path(str(config.path)).read_text()
        Path(str(config.path)).write_text(text[:5000] + "z" + text[5001:])

    original = survey.survey
    monkeypatch.setattr("data.text.survey", change)
    with pytest.raises(DataError, match=r"corpus 'jsonl' changed while it was read \(document \d+\)"):
        prepare(config, tmp_path)
    assert not list(tmp_path.glob(".tokenizer-*"))


class Task:
    """What is done in a worker; it dies of an "x"."""

    def __call__(self, batch: str) -> tuple[str, bool]:
        if batch == "x":
            os._exit(3)
        if batch == "refused":
            raise DataError("refused here")
        return batch.upper(), "torch" in sys.modules


@pytest.mark.slow
def test_workers_answer_in_order_and_say_when_they_cannot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(workers, "AT_ONCE", 1)
    monkeypatch.setenv(workers.WORKERS, "2")
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).parent))
    batches = [(number, f"text {number}") for number in range(40)]
    expected = [(number, (text.upper(), False)) for number, text in batches]
    assert list(in_order(Task(), batches)) == expected
    with pytest.raises(StoppedError, match=r"a worker process ended with 3 .* goes on there"):
        list(in_order(Task(), [*batches, (0, "x"), *batches]))
    with pytest.raises(DataError, match="refused here"):
        list(in_order(Task(), [*batches, (0, "refused"), *batches]))


@pytest.mark.parametrize("asked", ["0", "-1", "two", "1.5"])
def test_a_number_of_workers_that_is_none(asked: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(workers.WORKERS, asked)
    with pytest.raises(DataError, match="is 1 or more"):
        workers.count_workers()
