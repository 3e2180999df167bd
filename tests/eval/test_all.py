"""`python -m eval all` does what can be done."""

import pytest

from common.errors import InputError
from eval import catalogue, measuring
from eval.__main__ import main


@pytest.fixture
def refused(monkeypatch: pytest.MonkeyPatch) -> None:
    """No run is opened; the harness refuses, every other analysis and the report give a row."""

    def rows(analysis, settings, fresh, written):
        def give(subjects):
            if analysis.name == "harness":
                raise InputError("the texts are too long")
            return [{"run": f"row of {analysis.name}"}]

        return give

    monkeypatch.setattr(measuring, "_open", lambda runs, options: [])
    monkeypatch.setattr(measuring, "_measured", rows)
    monkeypatch.setattr(
        measuring.report_command, "write", lambda subjects, settings: {"run": "row of report"}
    )


@pytest.mark.usefixtures("refused")
def test_one_refusal_does_not_cost_the_other_analyses(capsys):
    with pytest.raises(InputError, match=r"all but these were done: harness \(the texts are too long\)"):
        main(["all", "somewhere"])
    printed = capsys.readouterr().out
    assert "not done: the texts are too long" in printed
    for name in (*catalogue.names(), "report"):
        assert (f"row of {name}" in printed) is (name != "harness")


@pytest.mark.usefixtures("refused")
def test_a_single_analysis_refuses_at_once():
    with pytest.raises(InputError, match=r"^the texts are too long$"):
        main(["harness", "somewhere"])
