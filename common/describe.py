"""The keys of a config in words, from the docstrings, ranges and choices of its dataclasses."""

import re
from collections.abc import Iterator
from dataclasses import Field, fields, is_dataclass
from inspect import cleandoc
from textwrap import fill
from typing import Any, Literal, get_args, get_origin, get_type_hints

WIDTH = 110


def described(config: type) -> str:
    """Every key of a config dataclass: a line with type and default, and below it what it means and may be."""
    return "\n".join(
        "\n".join([f"{name}: {_kind(kind)} = {default!r}", *([_indented(text)] if text else [])])
        for name, kind, default, text in keys(config)
    )


def keys(config: type, prefix: str = "") -> Iterator[tuple[str, Any, Any, str]]:
    """Dotted name, type, default and meaning of every key, those that a class itself defines before inherited ones."""
    instance, kinds, texts = config(), get_type_hints(config), meanings(config)
    own = config.__annotations__
    for item in sorted(fields(config), key=lambda item: item.name not in own):
        value, name = getattr(instance, item.name), f"{prefix}{item.name}"
        if is_dataclass(value):
            yield from keys(type(value), f"{name}.")
        else:
            kind = kinds[item.name]
            text = " ".join([texts.get(item.name, ""), _allowed(item, kind)]).strip()
            yield name, kind, value, text


def meanings(config: type) -> dict[str, str]:
    """Read what the docstrings of a dataclass and its bases say of its fields, under "Attributes:"."""
    found: dict[str, str] = {}
    for cls in reversed(config.__mro__):
        listed = cleandoc(cls.__doc__ or "").partition("Attributes:\n")[2]
        for names, text in re.findall(r"^ {4}(\w[\w, ]*): (.*(?:\n {8}.*)*)", listed, re.MULTILINE):
            found |= dict.fromkeys(names.split(", "), " ".join(text.split()))
    return found


def _allowed(item: "Field[Any]", kind: Any) -> str:
    """The range or the choices of a field, in brackets."""
    choices = item.metadata.get("choices") or (get_args(kind) if get_origin(kind) is Literal else ())
    if choices:
        return f"[{', '.join('null' if choice is None else str(choice) for choice in choices)}]"
    return f"[{item.metadata['range']}]" if "range" in item.metadata else ""


def _kind(kind: Any) -> str:
    if get_origin(kind) is Literal:
        return "str"
    return (kind.__name__ if type(kind) is type else str(kind)).replace("typing.", "")


def _indented(text: str) -> str:
    return fill(text, WIDTH, initial_indent="    ", subsequent_indent="    ", break_on_hyphens=False)
