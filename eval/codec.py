"""Typed results as JSON and back: a frozen dataclass is an object, and nothing else has its entries.

    decode(Result, encode(result)) == result

A field that is renamed, missing or of another type is refused with its place, so that no number is lost in silence. A
field with the default None is left out where it is None; a float that is not finite is written as null and read as nan.
"""

import dataclasses
import functools
import math
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from common.errors import InputError
from common.shapes import finite, shown

T = TypeVar("T")


def encode(value: Any) -> Any:
    """A value as JSON can hold it, exactly as it will be read back."""
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        fields = ((field, getattr(value, field.name)) for field in dataclasses.fields(value))
        return {
            field.name: encode(entry)
            for field, entry in fields
            if not (entry is None and field.default is None)
        }
    if hasattr(value, "tolist"):
        return encode(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): encode(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple | range):
        return [encode(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def decode(kind: type[T], value: Any, where: str = "results") -> T:
    """The value of this type that `encode` wrote.

    Raises:
        InputError: it is none; names the entry.
    """
    return _read(kind, value, where)  # type: ignore[no-any-return]


def _read(kind: Any, value: Any, where: str) -> Any:
    if kind is Any:
        return value
    origin, parts = typing.get_origin(kind), typing.get_args(kind)
    if origin in (types.UnionType, typing.Union):
        if value is None:
            return None
        (kind,) = (part for part in parts if part is not types.NoneType)
        return _read(kind, value, where)
    if dataclasses.is_dataclass(origin or kind):
        return _record(origin or kind, value, where, parts)
    if origin in (list, tuple, Sequence):
        entries = [_read(parts[0], entry, f"{where}[{i}]") for i, entry in enumerate(_is(list, value, where))]
        return tuple(entries) if origin is tuple else entries
    if origin in (dict, Mapping):
        entries = _is(dict, value, where)
        if odd := [key for key in entries if not isinstance(key, str)]:
            raise InputError(f"{where} has the key {odd[0]!r}, which is no text; in quotes it is one")
        return {key: _read(parts[1], entry, f"{where}.{key}") for key, entry in entries.items()}
    if kind is float:
        if value is None:
            return math.nan
        if not finite(_is((int, float), value, where)):
            raise InputError(f"entry {where} must be a number that a float can hold, got {shown(value)}")
        return float(value)
    return _is(kind, value, where)


def _record(kind: Any, value: Any, where: str, parts: tuple[Any, ...]) -> Any:
    hints, entries = _hints(kind, parts), _is(dict, value, where)
    unknown = sorted(entries.keys() - hints.keys())
    missing = sorted(
        field.name
        for field in dataclasses.fields(kind)
        if field.name not in entries
        and field.default is dataclasses.MISSING
        and field.default_factory is dataclasses.MISSING
    )
    for what, names in (("unknown", unknown), ("missing", missing)):
        if names:
            raise InputError(f"{what} entry {where}.{names[0]}")
    return kind(**{name: _read(hints[name], entry, f"{where}.{name}") for name, entry in entries.items()})


def _is(kind: Any, value: Any, where: str) -> Any:
    if not isinstance(value, kind) or (isinstance(value, bool) and kind is not bool):
        raise InputError(f"entry {where} is of another type ({type(value).__name__})")
    return value


@functools.cache
def _hints(kind: Any, parts: tuple[Any, ...]) -> dict[str, Any]:
    """The types of the fields of a dataclass, which may be generic in `parts`."""
    given = dict(zip(getattr(kind, "__parameters__", ()), parts, strict=True))
    return {name: given.get(hint, hint) for name, hint in typing.get_type_hints(kind).items()}
