"""Typed results as JSON and back."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Generic, TypeVar

import pytest
import torch

from common.errors import InputError
from eval.codec import decode, encode
from eval.results import write

T = TypeVar("T")


@dataclass(frozen=True)
class Pair(Generic[T]):
    first: T
    second: T


@dataclass(frozen=True)
class Inner:
    loss: float
    note: str | None = None


@dataclass(frozen=True)
class Outer:
    by_length: Mapping[str, Inner]
    pairs: Pair[list[float | None]]
    step: int | None
    anything: Any


VALUE = Outer({"64": Inner(1.5), "128": Inner(2.0, "far")}, Pair([1.0, None], [2.0]), None, {"a": [1]})


def test_what_is_written_is_read_back() -> None:
    written = json.loads(json.dumps(encode(VALUE)))
    assert written["by_length"]["64"] == {"loss": 1.5}
    assert written["step"] is None
    assert decode(Outer, written) == VALUE


def test_a_number_that_is_not_finite_is_null_and_comes_back_as_nan() -> None:
    assert encode(Inner(math.inf)) == {"loss": None}
    assert math.isnan(decode(Inner, {"loss": None}).loss)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"by_length": {"64": {"los": 1.0}}}, "unknown entry results.by_length.64.los"),
        ({"by_length": {"64": {}}}, "missing entry results.by_length.64.loss"),
        ({"by_length": {"64": {"loss": "1"}}}, r"entry results.by_length.64.loss is of another type \(str\)"),
        ({"pairs": {"first": [True], "second": []}}, r"entry results.pairs.first\[0\] is of another type"),
        ({"by_length": [1]}, r"entry results.by_length is of another type \(list\)"),
        ({"step": 1.5}, "entry results.step is of another type"),
        (
            {"by_length": {"64": {"loss": 10**400}}},
            "results.by_length.64.loss must be a number that a float can",
        ),
    ],
)
def test_another_layout_is_refused_with_its_place(change: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        decode(Outer, encode(VALUE) | change)


def test_numbers_that_json_lacks(tmp_path: Path) -> None:
    value = encode({"a": torch.tensor([1.0, float("nan")]), 2: (float("inf"), True, None), "p": Path("x")})
    assert value == {"a": [1.0, None], "2": [None, True, None], "p": "x"}
    write(tmp_path / "deep" / "x.json", value)
    assert json.loads((tmp_path / "deep" / "x.json").read_text()) == value
    (tmp_path / "file").write_text("")
    with pytest.raises(InputError, match="cannot write"):
        write(tmp_path / "file" / "x.json", value)
