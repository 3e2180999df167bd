"""`python -m eval all` does what can be done."""

import pytest

from eval import __main__ as command
from eval.analysis import analyses
from models import ModelError


def test_one_refusal_does_not_cost_the_other_analyses(monkeypatch, capsys):
    def rows(analysis, setting, subjects, fresh):
        if analysis.name == "harness":
            raise ModelError("the texts are too long")
        return [{"run": f"row of {analysis.name}"}]

    monkeypatch.setattr(command, "_open", lambda options: [])
    monkeypatch.setattr(command, "_rows", rows)
    with pytest.raises(ModelError, match=r"all but these were done: harness \(the texts are too long\)"):
        command.main(["all", "somewhere"])
    printed = capsys.readouterr().out
    assert "not done: the texts are too long" in printed
    for name in analyses():
        assert (f"row of {name}" in printed) is (name != "harness")


def test_a_single_analysis_refuses_at_once(monkeypatch):
    def rows(analysis, setting, subjects, fresh):
        raise ModelError("the texts are too long")

    monkeypatch.setattr(command, "_open", lambda options: [])
    monkeypatch.setattr(command, "_rows", rows)
    with pytest.raises(ModelError, match=r"^the texts are too long$"):
        command.main(["harness", "somewhere"])
