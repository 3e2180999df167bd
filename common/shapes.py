"""The shape of a value that somebody else wrote, in a file or a config: it is checked once, here.

A shape is a type: `int`, `str | None`, `list[str]`, `dict[str, float]`, a TypedDict (keys beyond it are allowed) or a
dataclass (keys beyond it are not).

    class Record(TypedDict):
        train_length: int
        versions: NotRequired[dict[str, str]]

    checked(value, Record, "run.json")      # a Record, or one line that says what is wrong with which entry

An integer passes for a float, a boolean for neither; numbers are finite.
"""

import dataclasses
import sys
import types
import typing
from typing import Any, Literal, TypeVar

from common.errors import InputError

T = TypeVar("T")

LONGEST = 60
"""Characters of a value in a message."""

NAMES = {int: "an integer", float: "a number", str: "a text", bool: "true or false", types.NoneType: "null"}


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
        fits = isinstance(value, int | float) and not isinstance(value, bool) and finite(value)
    elif shape is int:
        fits = isinstance(value, int) and not isinstance(value, bool)
    else:
        fits = isinstance(value, shape)
    return None if fits else _wrong(value, shape, key)


def finite(value: float) -> bool:
    """Whether a float can hold a number: neither nan nor infinite, nor an integer of too many digits."""
    return abs(value) <= sys.float_info.max


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
