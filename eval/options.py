"""Options of an analysis: the fields of a frozen dataclass, each with its meaning, unit and choices.

    @dataclass(frozen=True)
    class Settings:
        lengths: tuple[int, ...] = option((64, 512), "lengths of the windows", unit="tokens")

makes `--lengths 64,512`. A list is one argument with commas, so that no option takes what stands behind it.
"""

import argparse
import dataclasses
import types
import typing
from collections.abc import Callable, Sequence
from typing import Any

KINDS = {int: ("N", "an integer"), float: ("X", "a number"), str: ("TEXT", "a text")}
"""Names of types in a usage line and in a message."""


def option(
    default: Any,
    meaning: str,
    *,
    unit: str = "",
    choices: Sequence[str] = (),
    unset: str = "",
    decides: bool = True,
) -> Any:
    """A field of a settings dataclass.

    Args:
        default: its value where nothing is given.
        meaning: what it is, for `--help`.
        unit: of its numbers.
        choices: the words that it takes, where these are known.
        unset: what happens where it is not given and `default` is None.
        decides: whether results depend on it; one that does not is no part of their protocol.
    """
    metadata = {
        "meaning": meaning,
        "unit": unit,
        "choices": tuple(choices),
        "unset": unset,
        "decides": decides,
    }
    return dataclasses.field(default=default, metadata=metadata)


def deciding(settings: Any) -> dict[str, Any]:
    """The fields of a settings dataclass that results depend on, by name."""
    return {
        field.name: getattr(settings, field.name)
        for field in dataclasses.fields(settings)
        if field.metadata.get("decides", True)
    }


def add_options(parser: argparse._ActionsContainer, settings: type) -> None:
    """Give `parser` one option per field of the settings dataclass, with its type, default and help."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        several, kind = _kind(hints[field.name])
        name = f"--{field.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(
                name, action=argparse.BooleanOptionalAction, default=field.default, help=_help(field)
            )
        else:
            letters = KINDS[kind][0]
            parser.add_argument(
                name,
                type=_several(kind) if several else _one(kind),
                default=field.default,
                metavar=f"{letters},{letters}" if several else letters,
                help=_help(field),
            )


def read_options(settings: type, arguments: argparse.Namespace) -> Any:
    """The settings that `add_options` put into the parsed arguments."""
    return settings(**{field.name: getattr(arguments, field.name) for field in dataclasses.fields(settings)})


def _kind(hint: Any) -> tuple[bool, type]:
    """Whether a field holds several values, and the type of one."""
    if typing.get_origin(hint) in (types.UnionType, typing.Union):
        (hint,) = (part for part in typing.get_args(hint) if part is not types.NoneType)
    several = typing.get_origin(hint) is tuple
    return several, typing.get_args(hint)[0] if several else hint


def _one(kind: type) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        try:
            return kind(text)
        except ValueError as error:
            raise argparse.ArgumentTypeError(f"must be {KINDS[kind][1]}, got {text!r}") from error

    return read


def _several(kind: type) -> Callable[[str], tuple[Any, ...]]:
    read = _one(kind)
    return lambda text: tuple(read(part) for part in text.split(",") if part)


def _help(field: Any) -> str:
    """Meaning, unit, choices and default of a field, in one line."""
    about = field.metadata
    default = ",".join(map(str, field.default)) if isinstance(field.default, tuple) else str(field.default)
    details = [
        *([f"in {about['unit']}"] if about.get("unit") else []),
        *([f"any of {', '.join(about['choices'])}"] if about.get("choices") else []),
        f"default: {about['unset'] if field.default is None and about.get('unset') else default}",
    ]
    return f"{about.get('meaning', '')} ({'; '.join(details)})".strip().replace("%", "%%")
