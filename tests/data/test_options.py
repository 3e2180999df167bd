"""Options typed as key=value reach the config as they were meant."""

import re
from dataclasses import dataclass, field
from typing import Any, Literal

import pytest
from omegaconf import OmegaConf

from data import DataError
from data.commandline import parse
from data.options import read_option
from training import Config
from training.config import load


@dataclass
class Inner:
    path: str | None = None
    kind: Literal["a", "null"] = "a"
    mark: str = field(default="", metadata={"escapes": True})


@dataclass
class Outer:
    name: str = ""
    steps: int | None = 1
    free: dict[str, Any] = field(default_factory=dict)
    inner: Inner = field(default_factory=Inner)


def typed(option: str) -> Outer:
    merged = OmegaConf.merge(OmegaConf.structured(Outer), read_option(option, Outer)[1])
    made = OmegaConf.to_object(merged)
    assert isinstance(made, Outer)
    return made


YAML_READS_OTHERWISE = [
    *("---", "#", "~", "***", "*alias", "&anchor", "[draft].txt", "{a: b}", "%20.txt", "notes #1.txt", "1e5", "007"),
    *("yes", "Null", "None", "0x1f", "12:30", "2020-01-01", "a: b", "- a", "? a", "!tag", "|", ">", "@", "`", ",", ""),
    *(" two  spaces ", "\t", "\n\n", 'say "no"', "it's", "'", '"', "a=b", "${oc.env:HOME}"),
    *(r"\${x}", "${", r"C:\new", "é\u2028"),
]  # fmt: skip


@pytest.mark.parametrize("text", YAML_READS_OTHERWISE)
def test_a_text_is_taken_as_typed(text: str) -> None:
    assert typed(f"name={text}").name == text
    assert typed(f"inner.path={text}").inner.path == text
    assert parse(["corpus=text", f"path={text}"]).path == text


def test_none_and_the_text_null() -> None:
    assert typed("inner.path=null").inner.path is None
    assert typed("name=null").name == "null"
    assert typed('inner.path="null"').inner.path == "null"
    assert typed("inner.kind=null").inner.kind == "null"
    assert typed("steps=null").steps is None


@pytest.mark.parametrize(
    ("typed_as", "meant"),
    [
        ('"---"', "---"),
        (r'"\n\n"', "\n\n"),
        (r'"a\"b"', 'a"b'),
        ('"é\n"', "é\n"),
        ("'it''s'", "it's"),
        (r"'\n'", r"\n"),
        ('"a" or "b"', '"a" or "b"'),
    ],
)
def test_quotes_around_the_whole_are_taken_off(typed_as: str, meant: str) -> None:
    assert typed(f"name={typed_as}").name == meant


def test_a_separator_knows_escapes() -> None:
    assert typed(r"inner.mark=\n\t\r\\n").inner.mark == "\n\t\r\\n"
    assert parse([r"separator=\n\n"]).separator == "\n\n"
    assert parse(["corpus=text", r"path=a\n"]).path == r"a\n"


def test_what_is_no_text_is_yaml() -> None:
    assert typed("steps=12").steps == 12
    assert typed("free.a.b=[1, x]").free == {"a": {"b": [1, "x"]}}


@pytest.mark.parametrize(
    ("option", "message"),
    [
        ("name", "option 'name' must read key=value"),
        ("=x", "option '=x' must read key=value"),
        ("name=???", "'???' stands for a missing value"),
        (r'name="C:\q"', "in double quotes, write"),
        ("name=\ud800", "is not valid Unicode"),
        ("steps=***", "option 'steps=***': "),
        ("steps=[1", "option 'steps=[1': "),
        (f"steps={'1' * 5000}", "Exceeds the limit"),
        (f"steps={'[' * 3000}", "option"),
    ],
)
def test_what_cannot_be_read_is_one_line(option: str, message: str) -> None:
    with pytest.raises(DataError, match=re.escape(message)) as caught:
        read_option(option, Outer)
    assert "\n" not in str(caught.value)


def test_training_reads_options_by_the_same_rule(tmp_path) -> None:
    (tmp_path / "a.yaml").write_text("model: {preset: nano}\ndata: {corpus: text}")
    notes = tmp_path / "notes #1.txt"
    notes.touch()
    config: Config = load(tmp_path / "a.yaml", ["data.separator=---", f"data.path={notes}", "seed=3"])
    assert (config.data.separator, config.data.path, config.seed) == ("---", str(notes), 3)
