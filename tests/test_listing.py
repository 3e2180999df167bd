"""Parts that are found by listing, each with its own options."""

from dataclasses import dataclass
from types import SimpleNamespace

import pytest

from common.listing import options


@dataclass
class Plain:
    momentum: float = 0.9


@dataclass
class Finer(Plain):
    nesterov: bool = False


@dataclass
class Stranger:
    momentum: float = 0.5


def parts(*declared: type) -> list[SimpleNamespace]:
    return [SimpleNamespace(Options=each) for each in declared] + [SimpleNamespace()]


def test_options_are_taken_once_from_the_last_that_builds_on_them():
    assert options(parts(Plain, Finer)) == (Finer,)


def test_an_option_has_one_owner():
    with pytest.raises(TypeError, match=r"the option momentum is declared in .*test_listing and in"):
        options(parts(Plain, Stranger))
