"""`make test` tries the same examples everywhere; new ones are the business of `python -m tests.search`."""

from hypothesis import given, settings
from hypothesis import strategies as st

from tests import search

numbers: list[int] = []


@settings(max_examples=20)
@given(number=st.integers())
def test_examples_are_drawn(number):
    numbers.append(number)
    assert number in numbers


def test_examples_are_the_same_for_everybody():
    drawn, numbers[:] = list(numbers), []
    test_examples_are_drawn()
    assert settings().derandomize
    assert settings().database is None
    assert len(numbers) >= 20
    assert drawn in (numbers, [])


def test_a_search_stops_at_a_failure_and_when_time_is_up(monkeypatch, capsys):
    statuses, seeds = iter([0, 1]), []

    class Run:
        def __init__(self, command, **_):
            seeds.append(next(x for x in command if x.startswith("--hypothesis-seed")))
            self.returncode = next(statuses)

    monkeypatch.setattr(search.subprocess, "run", Run)
    monkeypatch.setattr("sys.argv", ["search", "--minutes", "5"])
    assert search.main() == 1
    assert len(set(seeds)) == 2
    monkeypatch.setattr("sys.argv", ["search", "--minutes", "0"])
    assert search.main() == 0
    assert "0 whole rounds" in capsys.readouterr().out
