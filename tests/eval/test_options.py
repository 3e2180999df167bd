"""Options come from the fields of a settings dataclass."""

import argparse
from dataclasses import dataclass

import pytest

from eval.analyses import harness
from eval.options import add_options, deciding, option, read_options


@dataclass(frozen=True)
class Options:
    many: tuple[int, ...] = option((1, 2), "several of them", unit="tokens")
    one: float = 0.5
    maybe: int | None = option(None, "so many", unset="all")
    numbers: tuple[int, ...] | None = option(None, "which", decides=False)
    flag: bool = True
    some_words: str = option("a", "a word", choices=("a", "b"))


def test_options_come_from_the_fields() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Options)
    assert read_options(Options, parser.parse_args([])) == Options()
    given = parser.parse_args(
        ["--many", "3,4", "--one", "0.25", "--maybe", "7", "--numbers", "5", "--no-flag", "--some-words", "b"]
    )
    assert read_options(Options, given) == Options((3, 4), 0.25, 7, (5,), False, "b")
    tasks = argparse.ArgumentParser()
    add_options(tasks, harness.Settings)
    read = read_options(harness.Settings, tasks.parse_args(["--tasks", "cloze,order,piqa"]))
    assert read.tasks == ("cloze", "order", "piqa")
    assert not read.offline


def test_help_says_meaning_unit_choices_and_default() -> None:
    parser = argparse.ArgumentParser()
    add_options(parser, Options)
    shown = " ".join(parser.format_help().split())
    assert "--many N,N several of them (in tokens; default: 1,2)" in shown
    assert "--maybe N so many (default: all)" in shown
    assert "--some-words TEXT a word (any of a, b; default: a)" in shown


@pytest.mark.parametrize(
    ("words", "message"),
    [(["--many", "3,x"], "must be an integer, got 'x'"), (["--one", "x"], "must be a number")],
)
def test_a_value_of_another_type_is_refused(words: list[str], message: str) -> None:
    parser = argparse.ArgumentParser(exit_on_error=False)
    add_options(parser, Options)
    with pytest.raises(argparse.ArgumentError, match=message):
        parser.parse_args(words)


def test_what_decides_no_number_is_no_part_of_a_protocol() -> None:
    assert set(deciding(Options())) == {"many", "one", "maybe", "flag", "some_words"}
