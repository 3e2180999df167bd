"""Results of another model or code count as missing; those that would now be measured otherwise are marked."""

from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from eval.analyses import activations
from eval.analysis import evaluate, get, read, sealed, write
from eval.report import command as report
from eval.report.command import Report
from eval.report.comparison import Measured, cells, columns
from eval.report.findings import findings
from eval.subjects.opening import open_subject
from tests.eval.conftest import RunMaker
from tests.eval.test_report import page_of


@pytest.fixture
def path(make_run: RunMaker, tmp_path: Path) -> Path:
    """A run whose activations were measured."""
    made = make_run("fresh", folder=tmp_path)
    evaluate(get("activations"), open_subject(made), activations.Settings(sequences=3))
    return made


def measured(path: Path, **options: Any) -> Measured:
    return report.measured(open_subject(path, **options), "fresh")


def shown(run: Measured) -> str:
    column = next(column for column in columns([run]) if column.key == "kurtosis")
    return cells(column, [run])[0].text


def test_a_fresh_result_has_no_mark(path: Path) -> None:
    run = measured(path)
    assert run.outdated == {}
    assert "†" not in shown(run)
    assert not any("†" in sentence for sentence in findings([run]))


def test_a_result_of_other_code_is_missing(path: Path, copied: Path) -> None:
    """Its layout may be another, so that reading it could fail."""
    with (copied / "models" / "norms.py").open("a") as file:
        file.write("\n")
    file = path / "eval" / "activations.json"
    write(file, sealed({**(read(file) or {}), "results": {}}))
    run = measured(path)
    assert (run.results, run.missing["activations"]) == ({}, "measured by other code")
    assert "fresh: measured by other code: activations" in page_of([run])
    assert "fresh: measured by other code: activations." in Report("A", [run], {}).text()


def test_a_result_with_other_libraries_is_marked(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = metadata.version
    monkeypatch.setattr(metadata, "version", lambda name: "0" if name == "numpy" else now(name))
    run = measured(path)
    assert run.outdated == {"activations": "versions"}
    assert shown(run).endswith(" †")
    assert "Numbers with a † would now be measured otherwise: fresh." in findings([run])
    page = page_of([run])
    assert "† fresh, not as it would be measured now: versions (activations)." in page
    assert 'title="not as it would be measured now: versions"' in page
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
