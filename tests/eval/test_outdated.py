"""Results of another model count as missing; those that would now be measured otherwise are marked."""

import re
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eval.analyses import activations
from eval.analysis import evaluate
from eval.catalogue import get
from eval.report import collection
from eval.report.collection import Measured
from eval.report.comparison import cells, columns
from eval.report.contents import Report
from eval.report.findings import findings
from eval.results import read, sealed, write
from eval.subject import open_subject
from tests.eval.conftest import RunMaker
from tests.eval.examples import page_of

pytestmark = pytest.mark.slow


@pytest.fixture
def path(make_run: RunMaker, tmp_path: Path) -> Path:
    """A run whose activations were measured."""
    made = make_run("fresh", folder=tmp_path)
    evaluate(get("activations"), open_subject(made), activations.Settings(sequences=3))
    return made


def measured(path: Path, **options: Any) -> Measured:
    return collection.measured(open_subject(path, **options), "fresh")


def shown(run: Measured) -> str:
    column = next(column for column in columns([run]) if column.key == "kurtosis")
    return cells(column, [run])[0].text


def test_a_fresh_result_has_no_mark(path: Path) -> None:
    run = measured(path)
    assert run.outdated == {}
    assert "†" not in shown(run)
    assert not any("†" in sentence for sentence in findings([run]))


def test_a_result_of_other_code_is_shown_and_marked(path: Path, copied: Path) -> None:
    edit(copied / "models" / "block.py")
    run = measured(path)
    assert run.outdated == {"activations": "code, parts"}
    assert shown(run).endswith(" †")
    assert "Numbers with a † would now be measured otherwise: fresh." in findings([run])
    assert (
        "fresh: † not as it would be measured now (code, parts): activations."
        in Report("A", [run], {}).text()
    )


def test_a_result_from_before_parts_had_hashes_is_shown_and_marked(path: Path) -> None:
    file = path / "eval" / "activations.json"
    old = read(file) or {}
    del old["protocol"]["parts"]
    write(file, sealed({**old, "protocol": {**old["protocol"], "code": "29c1d8e97eb257f5"}}))
    run = measured(path)
    assert run.outdated == {"activations": "code, parts"}
    assert shown(run).endswith(" †")


@pytest.mark.parametrize("edited", ["softpick", "softmax", "ratio"])
def test_of_mechanisms_only_those_that_a_run_uses_count(path: Path, copied: Path, edited: str) -> None:
    """The run attends with softmax; the base of another mechanism is none of its sources."""
    folder = copied / "attention" / "mechanisms"
    (folder / "mine.py").write_text("class Mine:\n    pass\n")
    file = folder / f"{edited}.py"
    if file.exists():
        edit(file)
    assert measured(path).outdated == ({"activations": "parts"} if edited == "softmax" else {})


def test_what_is_no_code_outdates_nothing(path: Path, copied: Path) -> None:
    for file in ("models/norms/rms.py", "attention/mechanisms/softmax.py", "eval/analyses/activations.py"):
        source = copied / file
        text = re.sub(r'\A"""', '"""Edited. ', source.read_text())
        source.write_text(f"# A comment.\n\n{text}\n\n# Another.\n")
    header = next((copied / "attention").rglob("rows.h"))
    header.write_text(f"// A comment.\n\n{header.read_text()}\n/* Two\nlines. */\n")
    assert measured(path).outdated == {}


def edit(file: Path) -> None:
    """Add a statement to a source."""
    file.write_text(f"{file.read_text()}\nEDITED = 1\n")


def test_a_result_with_other_libraries_is_marked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0" if name == "numpy" else now(name))
    run = measured(path)
    assert run.outdated == {"activations": "versions"}
    assert shown(run).endswith(" †")
    assert "Numbers with a † would now be measured otherwise: fresh." in findings([run])
    page = page_of([run])
    assert "† fresh, not as it would be measured now: versions (activations)." in page
    assert 'title="would now be measured with other versions"' in page
    text = Report("A", [run], {}).text()
    assert shown(run) in text
    assert "fresh: † not as it would be measured now (versions): activations." in text


def test_a_result_of_another_dtype_or_text_is_marked(path: Path, corpus: Path) -> None:
    assert measured(path, dtype="bfloat16").outdated == {"activations": "dtype"}
    assert measured(path, text=str(corpus / "00.txt")).outdated == {"activations": "text"}


def test_a_text_that_is_not_there_does_not_matter(path: Path) -> None:
    record = path / "run.json"
    record.write_text(record.read_text().replace('"data": "', '"data": "0'))
    assert measured(path).outdated == {}


def test_a_result_of_another_model_config_is_missing(path: Path) -> None:
    config = path / "config.yaml"
    config.write_text(config.read_text().replace("attention: softmax", "attention: softpick"))
    run = measured(path)
    assert run.results == {}
    assert run.missing["activations"] == "measured with another model config"
