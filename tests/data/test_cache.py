"""A cache that lies is built again, and nobody else's is believed."""

import json
import os
import shutil
import subprocess
import sys
import time
import warnings
from pathlib import Path

import numpy as np
import pytest
from filelock import FileLock

from data import DataConfig, DataError, Prepared, TokenizerConfig, prepare
from data.cache import CONTENTS, build_once, remove_orphans

ROOT = Path(__file__).parents[2]


@pytest.fixture
def config(jsonl, texts: list[str]) -> DataConfig:
    return DataConfig(corpus="jsonl", path=jsonl(texts), tokenizer=TokenizerConfig(vocab_size=320))


def content(prepared: Prepared) -> tuple[object, ...]:
    shards = [shard.tokens.tolist() for shard in (prepared.train, prepared.valid)]
    return prepared.fingerprint, shards, prepared.valid_documents()


def test_every_file_is_checked(config: DataConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    right = content(prepare(config, cache))
    files = sorted(file for file in cache.rglob("*") if file.is_file() and file.suffix != ".lock")
    assert {file.name for file in files} >= {
        "sides.npy",
        "digests.npy",
        "tokenizer.model",
        "train-00000.uint16",
        "train.npy",
        CONTENTS,
    }
    for file in files:
        before = file.read_bytes()
        file.write_bytes(before[:-3] + bytes([before[-3] ^ 1]) + before[-2:])
        with pytest.warns(
            UserWarning, match=rf"{file.parent.name} is damaged \(.*\) and was built again"
        ) as said:
            again = prepare(config, cache)
        assert content(again) == right
        assert len(said) == 1
        assert file.name == CONTENTS or file.read_bytes() == before
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert content(prepare(config, cache)) == right


def test_folders_that_were_swapped_or_made_up(config: DataConfig, jsonl, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    right = content(prepare(config, cache))
    (shards,) = cache.glob("shards-*[0-9a-f]")
    other = DataConfig(
        corpus="jsonl",
        path=jsonl(["a b c", "d e f"], name="b.jsonl"),
        tokenizer=TokenizerConfig(kind="char", vocab_size=290),
    )
    prepare(other, tmp_path / "other")
    (strange,) = (tmp_path / "other").glob("shards-*[0-9a-f]")
    for made_up in ({}, [], None, {"files": {}}, {"files": {}, "seal": ""}, {"files": 3, "seal": "x"}):
        shutil.rmtree(shards)
        shutil.copytree(strange, shards)
        if made_up != {}:
            (shards / CONTENTS).write_text(json.dumps(made_up))
        with pytest.warns(UserWarning, match="is damaged"):
            assert content(prepare(config, cache)) == right
    shutil.rmtree(shards)
    shards.write_text("a file")
    with pytest.warns(UserWarning, match="is damaged"):
        assert content(prepare(config, cache)) == right


def test_a_pickle_is_not_opened(config: DataConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    prepare(config, cache)

    class Trap:
        def __reduce__(self) -> tuple[object, ...]:
            return os.mkdir, (str(tmp_path / "sprung"),)

    for name in ("sides.npy", "train.npy"):
        (file,) = cache.rglob(name)
        np.save(file, np.array([Trap()], dtype=object), allow_pickle=True)
    with pytest.warns(UserWarning, match="has changed"):
        prepare(config, cache)
    assert not (tmp_path / "sprung").exists()


def test_a_complete_cache_that_cannot_be_written_serves(
    config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache = tmp_path / "cache"
    right = content(prepare(config, cache))

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied", str(cache))

    monkeypatch.setattr("data.cache.Path.mkdir", lambda path, **how: None if how.get("parents") else refuse())
    monkeypatch.setattr(FileLock, "_acquire", refuse)
    assert content(prepare(config, cache)) == right
    config.seed = 1
    with pytest.raises(
        DataError, match=r"cannot build the cache folder .*Permission denied; set ATTENTION_ZOO_CACHE"
    ):
        prepare(config, cache)


def test_a_full_disk_is_one_line(config: DataConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*_: object, **__: object) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("data.parts.Parts.commit", full)
    with pytest.raises(DataError, match="No space left on device"):
        prepare(config, tmp_path / "cache")
    assert not list((tmp_path / "cache").glob("*shards*-*[0-9a-f]"))


@pytest.mark.slow
def test_what_a_killed_builder_left_is_removed(config: DataConfig, tmp_path: Path) -> None:
    cache = tmp_path / "cache"
    code = (
        "import os, signal, sys; from pathlib import Path; from data.cache import build_once\n"
        "def build(folder):\n    (folder / 'half').touch(); os.kill(os.getpid(), signal.SIGKILL)\n"
        f"build_once(Path({str(cache)!r}), 'text', 'same', build)"
    )
    cache.mkdir()
    subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False, timeout=120)
    (left,) = cache.glob(".text-*")
    old = time.time() - 8 * 24 * 3600
    for place in (left / "half", left):
        os.utime(place, (old, old))
    resumable = cache / f".{'text-' + '1' * 20}-partial"
    resumable.mkdir()
    living = cache / f".{'shards-' + '0' * 20}-alive"
    living.mkdir()
    mine = cache / ".mine-of-no-builder"
    mine.mkdir()
    with FileLock(cache / f"shards-{'0' * 20}.lock"):
        prepare(config, cache)
        assert not left.exists()
        assert living.exists()
    remove_orphans(cache)
    assert not living.exists()
    assert resumable.exists(), "what can go on is kept for a week"
    assert mine.exists()


def test_what_others_can_write_is_not_believed(tmp_path: Path) -> None:
    folder = build_once(tmp_path, "text", "x", lambda folder: (folder / "a").touch())
    folder.chmod(0o777)
    with pytest.raises(DataError, match="can be written by everybody: what it holds cannot be trusted"):
        build_once(tmp_path, "text", "x", lambda folder: None)
    folder.chmod(0o755)
    assert build_once(tmp_path, "text", "x", lambda folder: None) == folder
    assert (folder / "a").stat().st_mode & 0o022 == 0


@pytest.mark.skipif(not hasattr(os, "getuid") or os.getuid() != 0, reason="only root can give files away")
def test_what_another_user_left_where_everybody_writes(tmp_path: Path) -> None:
    folder = build_once(tmp_path, "text", "x", lambda folder: (folder / "a").touch())
    os.chown(folder, 65534, 65534)
    assert build_once(tmp_path, "text", "x", lambda folder: None) == folder, (
        "of a shared cache that one person fills"
    )
    tmp_path.chmod(0o1777)
    with pytest.raises(DataError, match="belongs to user 65534, where everybody can write"):
        build_once(tmp_path, "text", "x", lambda folder: None)
