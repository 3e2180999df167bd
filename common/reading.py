"""Files of a run are read here: they may be damaged, or made by somebody else, so the shape of each is checked once.

    record = read_json(path, Record)          # a Record, or one line that says what is wrong with which entry

No reference such as `${oc.env:HOME}` is ever followed: what a file says is what it holds.
"""

import json
import math
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any, TypeVar

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import InputError
from common.shapes import checked, shown

T = TypeVar("T")

REFERENCE = re.compile(r"(?<!\\)(?:\\\\)*\$\{")
"""A reference as OmegaConf sees it: `${`, unless an odd number of backslashes stands before it."""


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
