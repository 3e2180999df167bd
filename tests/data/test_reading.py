"""Files of others: compressed, damaged, foreign. The right documents, or one line that names the file."""

import bz2
import gzip
import json
import lzma
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from data import DataConfig, DataError
from data.choice import corpus_of
from data.corpora import documents, open_corpus


def zstd(content: bytes) -> bytes:
    return pyarrow.Codec("zstd").compress(content, asbytes=True)


COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    "gz": gzip.compress,
    "bz2": bz2.compress,
    "xz": lzma.compress,
    "zst": zstd,
}
RECORDS = "".join(
    json.dumps({"text": f"document {n}\u2028 of \u00e9\n"}, ensure_ascii=False) + "\n" for n in range(300)
)
TEXTS = [f"document {n}\u2028 of \u00e9\n" for n in range(300)]


def read(path: Path | str, **options: Any) -> list[str]:
    config = DataConfig(corpus=corpus_of(str(path)), path=str(path), **options)
    return [document.text for document in documents(open_corpus(config))]


def refused(path: Path | str, *parts: str, **options: Any) -> None:
    with pytest.raises(DataError) as caught:
        read(path, **options)
    said = str(caught.value)
    assert all(part in said for part in parts), said
    assert "\n" not in said
    assert len(said) < 1000


@pytest.mark.parametrize("kind", COMPRESS)
def test_compressed_files_are_read_by_what_they_are(kind: str, tmp_path: Path) -> None:
    compressed = COMPRESS[kind](RECORDS.encode())
    (tmp_path / f"a.jsonl.{kind}").write_bytes(compressed)
    assert read(tmp_path / f"a.jsonl.{kind}") == read(tmp_path) == TEXTS
    (tmp_path / f"b.jsonl.{kind}").write_bytes(compressed[: len(compressed) // 2])
    refused(tmp_path, f"cannot read {tmp_path}/b.jsonl.{kind}", "is it whole?")
    (tmp_path / f"b.jsonl.{kind}").write_bytes(b"")
    refused(tmp_path, f"b.jsonl.{kind} is named .{kind} but", "it is empty")
    (tmp_path / f"b.jsonl.{kind}").write_bytes(compressed + compressed)
    assert read(tmp_path / f"b.jsonl.{kind}") == TEXTS * 2
    (tmp_path / f"c.txt.{kind}").write_bytes(COMPRESS[kind]("\ufeffone\r\ntwo".encode()))
    assert read(tmp_path / f"c.txt.{kind}") == ["one\ntwo"]
    if kind != "bz2":
        (tmp_path / "d.jsonl").write_bytes(compressed)
        assert read(tmp_path / "d.jsonl") == TEXTS


@pytest.mark.parametrize("kind", COMPRESS)
def test_a_flipped_bit_in_a_compressed_file_is_noticed(kind: str, tmp_path: Path) -> None:
    if kind == "zst":
        pytest.skip("pyarrow writes zstd without a checksum")
    compressed = bytearray(COMPRESS[kind](RECORDS.encode()))
    compressed[len(compressed) // 2] ^= 4
    (tmp_path / f"a.txt.{kind}").write_bytes(compressed)
    refused(tmp_path / f"a.txt.{kind}", f"a.txt.{kind}")


def test_zstd_without_its_library(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a.jsonl.zst").write_bytes(zstd(b'{"text": "one"}'))
    monkeypatch.setitem(sys.modules, "pyarrow", None)
    refused(tmp_path, "is compressed with zstd", "pip install pyarrow")


def test_json_lines_of_any_name(tmp_path: Path) -> None:
    for name in ("a.ndjson", "c4-train.00000.json.gz", "B.JSONL"):
        content = RECORDS.encode()
        (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith("gz") else content)
        assert read(tmp_path / name) == TEXTS
    assert read(tmp_path) == TEXTS * 2, "a .json may be something else where there are .jsonl"
    (tmp_path / "c.json").write_text('[{"text": "one"}]')
    refused(tmp_path / "c.json", "c.json, line 1: a JSON object is expected, not list")


def test_hostile_json(tmp_path: Path) -> None:
    path = tmp_path / "a.jsonl"
    for line, message in (
        ('{"text": ' + "[" * 100_000, "line 2: JSON that cannot be read"),
        ('{"text": "x", "n": ' + "1" * 5000 + "}", "line 2: JSON that cannot be read (Exceeds the limit"),
        ('{"text": null}', "line 2: field 'text' is null, not text"),
        ('{"te\\nxt": "x"}', "line 2: no field 'text'; did you mean 'te\\nxt'"),
        ('{"text": "x"', "line 2: not JSON"),
    ):
        path.write_text('{"text": "fine"}\n' + line)
        refused(path, str(path), message)


def test_parquet_names_the_row(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts: list[str | None] = [f"text {n}" for n in range(3000)]
    texts[2100] = None
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path)
    refused(path, f"{path}, row 2101: field 'text' is null, not text")


def test_damaged_parquet(tmp_path: Path) -> None:
    path = tmp_path / "a.parquet"
    texts = [f"text {n * n}" for n in range(5000)]
    pyarrow.parquet.write_table(pyarrow.table({"text": texts}), path, row_group_size=1000)
    whole = path.read_bytes()
    for content in (b"", whole[:1000], whole[:-4], b"PAR1" * 100, whole[1000:], whole[:200] + whole[300:]):
        path.write_bytes(content)
        refused(path, str(path), "fetch or write it again")
    damaged = bytearray(whole)
    damaged[30:60] = b"\xff" * 30
    path.write_bytes(damaged)
    refused(path, str(path))


def test_what_save_to_disk_wrote(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    whole = datasets.Dataset.from_dict({"text": TEXTS, "n": list(range(300))})
    whole.save_to_disk(tmp_path / "one")
    datasets.DatasetDict({"train": whole, "test": whole.select([4])}).save_to_disk(tmp_path / "two")
    assert read(tmp_path / "one") == read(tmp_path / "two") == TEXTS
    assert read(tmp_path / "two", dataset_split="test") == TEXTS[4:5]
    named = DataConfig(corpus="huggingface", dataset=str(tmp_path / "one"))
    assert [document.text for document in documents(open_corpus(named))] == TEXTS
    refused(tmp_path / "two", "has no split 'valid' (known: test, train)", dataset_split="valid")
    refused(tmp_path / "one", "record 1: no field 'body'", field="body")
    refused(tmp_path / "one", "record 1: field 'n' holds int", field="n")
    (arrow,) = (tmp_path / "one").glob("*.arrow")
    state = tmp_path / "one" / "state.json"
    for file, content in (
        (arrow, arrow.read_bytes()[:2000]),
        (arrow, b""),
        (state, b"[]"),
        (state, b'{"_data_files": 3}'),
        (state, b"{"),
    ):
        before = file.read_bytes()
        file.write_bytes(content)
        refused(tmp_path / "one", f"cannot read dataset {tmp_path}/one")
        file.write_bytes(before)


def test_paths_that_cannot_be(tmp_path: Path) -> None:
    for path, message in (
        ("x" * 5000, "File name too long"),
        ("~nosuchuser/x.txt", "cannot find ~nosuchuser/x.txt"),
        ("a\0b", "embedded null"),
        ("nowhere.txt", "no such file or folder: nowhere.txt"),
        (f"{tmp_path}/line\nbreak", "line\\nbreak"),
    ):
        refused(path, message)
        with pytest.raises(DataError, match=r"cannot find|no such"):
            open_corpus(DataConfig(corpus="text", path=path))


def test_a_pipe_is_no_corpus(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.txt")
    with pytest.raises(DataError, match=r"pipe\.txt can be read once only; write it to a file"):
        open_corpus(DataConfig(corpus="text", path=str(tmp_path / "pipe.txt")))


def test_other_encodings_and_archives(tmp_path: Path) -> None:
    path = tmp_path / "a.txt"
    for encoding, named in (("utf-16", "UTF-16"), ("latin-1", "LATIN1")):
        path.write_bytes("caf\u00e9 au lait".encode(encoding))
        refused(path, f"{path} is not UTF-8 text", f"iconv -f {named} -t UTF-8")
    for name in ("a.tar.gz", "a.tgz", "a.zip", "a.tar"):
        (tmp_path / name).write_text("anything")
        refused(tmp_path / name, "is an archive; unpack it")


def test_a_link_that_leads_nowhere_is_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "b.txt").symlink_to("gone.txt")
    refused(tmp_path, "cannot read", "b.txt")


def test_a_separator_that_is_nowhere(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("one\n***\ntwo")
    (tmp_path / "b.txt").write_text("three")
    assert read(tmp_path, separator="***") == ["one\n", "two", "three"]
    refused(tmp_path, "the separator '---' is nowhere in", separator="---")


def test_line_breaks_are_alike_in_files_and_separators(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"one\r\n***\r\ntwo")
    for separator in ("\n***\n", "\r\n***\r\n", "\r***\r"):
        assert read(tmp_path, separator=separator) == ["one", "two"]


# The corpus follows from the path


def test_the_corpus_that_reads_a_path(tmp_path: Path) -> None:
    def folder(*names: str) -> str:
        place = tmp_path / "-".join(names).replace("/", "_")
        for name in names:
            (place / name).parent.mkdir(parents=True, exist_ok=True)
            (place / name).write_text("x")
        return str(place)

    assert corpus_of(folder("a.txt", "b.md")) == "text"
    assert corpus_of(folder("README.md")) == "text"
    assert corpus_of(folder("README.md", "sub/a.jsonl.gz", "info.json")) == "jsonl"
    assert corpus_of(folder("a.json.zst")) == "jsonl"
    assert corpus_of(folder("train/0.parquet", "README.md", ".git/x.txt")) == "parquet"
    mixed = folder("a.txt", "b.jsonl")
    assert corpus_of(mixed, preferred="jsonl") == "jsonl"
    with pytest.raises(DataError, match=r"several kinds; say which to read: corpus=jsonl or corpus=text"):
        corpus_of(mixed)
    with pytest.raises(DataError, match=r"holds no text: no visible file is \.jsonl"):
        corpus_of(folder("a.py"))
    files = Path(folder("input", "a.parquet", "b.JSONL", "c.rst", "d.csv"))
    assert [corpus_of(str(files / name)) for name in ("input", "a.parquet", "b.JSONL", "c.rst")] == [
        "text",
        "parquet",
        "jsonl",
        "text",
    ]
    assert corpus_of(str(files / "c.rst"), preferred="jsonl") == "jsonl"
    with pytest.raises(DataError, match=r"is a table; .*dataset=csv"):
        corpus_of(str(files / "d.csv"))
