"""The shape of what is read: files of a run may be damaged, or made by somebody else, so each is checked once, here.

A shape is a type: `int`, `str | None`, `list[str]`, `dict[str, float]`, a TypedDict (keys beyond it are allowed) or a
dataclass (keys beyond it are not).

    class Record(TypedDict):
        train_length: int
        versions: NotRequired[dict[str, str]]

    record = read_json(path, Record)          # a Record, or one line that says what is wrong with which entry

An integer passes for a float, a boolean for neither; numbers are finite. No reference such as `${oc.env:HOME}` is ever
followed: what a file says is what it holds.
"""

import dataclasses
import json
import math
import re
import types
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import InputError

T = TypeVar("T")

LONGEST = 60
"""Characters of a value in a message."""

REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
"""A reference as OmegaConf sees it: `${`, unless an odd number of backslashes stands before it."""

NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null"}


def read_json(path: Path, shape: type[T]) -> T:
    """A JSON file of this shape.

    Raises:
        InputError: it cannot be read, is no JSON, holds a number that is not finite, or has another shape.
    """
    return checked(parse_json(_text(path), str(path)), shape, str(path))


def parse_json(text: str, where: str) -> Any:
    """Strict JSON: without NaN, Infinity and numbers that overflow.

    Raises:
        InputError: anything else; begins with `where`.
    """
    try:
        return json.loads(text, parse_constant=_refuse, parse_float=_finite)
    except (ValueError, RecursionError) as error:
        raise InputError(f"{where} is not readable JSON: {_reason(error)}") from error


def read_yaml(path: Path, shape: type[T]) -> T:
    """A YAML file of this shape, with its texts as they stand there.

    Raises:
        InputError: it cannot be read, is no YAML, has another shape, or holds a reference `${...}`.
    """
    _text(path)
    try:
        # OmegaConf's reader, unlike plain YAML 1.1, takes 1e-15 for a number.
        loaded = OmegaConf.to_container(OmegaConf.load(path), resolve=False)
    except (yaml.YAMLError, OmegaConfBaseException, ValueError, OSError, RecursionError) as error:
        raise InputError(f"{path} is not readable YAML: {_reason(error)}") from error
    if reference := next(references(loaded), None):
        raise InputError(f"{path}: {reference} is a reference, which is not followed; write the value itself")
    return checked(_unescaped(loaded), shape, str(path))


def escaped(value: Any) -> Any:
    """A nested value whose texts `read_yaml` gives back as they are, those with `${` too."""
    if isinstance(value, dict):
        return {key: escaped(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [escaped(entry) for entry in value]
    return re.sub(r"(\\*)\$\{", r"\1\1\\${", value) if isinstance(value, str) else value


def _unescaped(value: Any) -> Any:
    if isinstance(value, dict):
        return {key: _unescaped(entry) for key, entry in value.items()}
    if isinstance(value, list):
        return [_unescaped(entry) for entry in value]
    if not isinstance(value, str):
        return value
    return re.sub(r"((?:\\\\)*)\\\$\{", lambda found: found[1][::2] + "${", value)


def references(value: Any, key: str = "") -> Iterator[str]:
    """Find the texts like `${oc.env:HOME}` in a nested value, as "key: text"."""
    if isinstance(value, dict):
        for name, entry in value.items():
            yield from references(entry, f"{key}.{name}" if key else str(name))
    elif isinstance(value, list):
        for place, entry in enumerate(value):
            yield from references(entry, f"{key}[{place}]")
    elif isinstance(value, str) and REFERENCE.search(value):
        yield f"{key}: {shown(value)}"


def checked(value: Any, shape: type[T], where: str) -> T:
    """The value, if it has the shape.

    Raises:
        InputError: it has not; names `where`, the entry and what would be right.
    """
    problem = mismatch(value, shape)
    if problem is not None:
        raise InputError(f"{where}: {problem}")
    return value  # type: ignore[no-any-return]


def mismatch(value: Any, shape: Any, key: str = "") -> str | None:
    """Say what keeps a value from having a shape, as "key must be an integer, got 'x'"; None if it has it."""
    if shape is Any:
        return None
    kind, parts = typing.get_origin(shape), typing.get_args(shape)
    if kind in (types.UnionType, typing.Union):
        if any(mismatch(value, part, key) is None for part in parts):
            return None
        deeper = [part for part in parts if _container(part) and isinstance(value, _container(part))]
        return mismatch(value, deeper[0], key) if deeper else _wrong(value, shape, key)
    if kind is Literal:
        return None if value in parts and type(value) in map(type, parts) else _wrong(value, shape, key)
    if fields := _fields(shape):
        return _record(value, shape, fields, key)
    if kind in (dict, list) or shape in (dict, list):
        if not isinstance(value, kind or shape):
            return _wrong(value, shape, key)
        entries = value.items() if isinstance(value, dict) else enumerate(value)
        inner = parts[-1] if parts else Any
        for name, entry in entries:
            if isinstance(value, dict) and not isinstance(name, str):
                return f"{key or 'it'} has the key {shown(name)}, which is no text"
            if problem := mismatch(entry, inner, f"{key}.{name}".lstrip(".")):
                return problem
        return None
    if shape is float:
        fits = isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)
    elif shape is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, shape)
    return None if fits else _wrong(value, shape, key)


def shown(value: Any) -> str:
    """A value for a message: short, whatever it is."""
    if isinstance(value, int) and value.bit_length() > 256:
        return f"an integer of {value.bit_length():,} bits"
    text = repr(value)
    return text if len(text) <= LONGEST else f"{text[:LONGEST]}..."


def words(shape: Any) -> str:
    """A shape for a message: "an integer or null"."""
    kind, parts = typing.get_origin(shape), typing.get_args(shape)
    if kind in (types.UnionType, typing.Union):
        return " or ".join(map(words, parts))
    if kind is Literal:
        return " or ".join(map(repr, parts))
    if (kind or shape) is list:
        return "a list"
    if (kind or shape) is dict or _fields(shape):
        return "a section of keys and values"
    return NAMES.get(shape, str(shape))


def _record(value: Any, shape: Any, fields: dict[str, Any], key: str) -> str | None:
    if not isinstance(value, dict):
        return _wrong(value, shape, key)
    required = getattr(shape, "__required_keys__", ())
    for name in required:
        if name not in value:
            return f"no entry {f'{key}.{name}'.lstrip('.')!r}"
    for name, entry in value.items():
        if name in fields:
            if problem := mismatch(entry, fields[name], f"{key}.{name}".lstrip(".")):
                return problem
        elif dataclasses.is_dataclass(shape):
            return f"unknown entry {f'{key}.{name}'.lstrip('.')!r}"
    return None


def _fields(shape: Any) -> dict[str, Any]:
    """Types of the entries of a TypedDict or a dataclass by name; none for any other shape."""
    if dataclasses.is_dataclass(shape) or typing.is_typeddict(shape):
        return typing.get_type_hints(shape)
    return {}


def _container(shape: Any) -> Any:
    if _fields(shape):
        return dict
    kind = typing.get_origin(shape) or shape
    return kind if kind in (dict, list) else None


def _wrong(value: Any, shape: Any, key: str) -> str:
    return f"{key or 'it'} must be {words(shape)}, got {shown(value)}"


def _text(path: Path) -> str:
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise InputError(f"{path} is not UTF-8 text: {error.reason} at byte {error.start}") from error


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {text[:20]} is too large")
    return value


def _refuse(text: str) -> float:
    raise ValueError(f"{text} is no number")


def _reason(error: Exception) -> str:
    if isinstance(error, RecursionError):
        return "it is nested too deeply"
    return " ".join(str(error).split()) or type(error).__name__
