"""A short version of every table: each fault that it makes is survived."""

import pytest

from tests.reliability import Trial, page

pytestmark = pytest.mark.slow


@pytest.mark.parametrize("name", page.tables())
@pytest.mark.parametrize("times", [1, pytest.param(4, marks=pytest.mark.exhaustive)])
def test_what_is_tried_is_survived(name, times):
    table = page.table(name)
    trials = list(table.trials(times * table.FEW, seed=0))
    assert trials, "nothing was tried"
    assert [f"{trial.kind}; {trial.case}: {trial.failure}" for trial in trials if trial.failure] == []


def test_a_page_keeps_the_sections_of_other_tables(tmp_path):
    path = tmp_path / "reliability.md"
    page.write(path, "b", "## b: Second\n\nold\n")
    page.write(path, "a", "## a: First\n\nnew\n")
    page.write(path, "b", "## b: Second\n\nnewer\n")
    text = path.read_text()
    assert text.index("## a: First") < text.index("## b: Second")
    assert "newer" in text
    assert "old" not in text
    assert text.startswith(page.TITLE)


def test_a_failure_is_counted_and_named():
    trials = [Trial("cut", "case 1", "refused"), Trial("cut", "case 2", failure="Traceback | KeyError")]
    assert "| cut | 2 | 1 | 1 refused | case 2: Traceback \\| KeyError |" in page._rows(trials)
