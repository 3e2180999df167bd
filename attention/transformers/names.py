"""Names of attention implementations: `zoo:auto`, `zoo:softpick`, `zoo:lssar?power=3&epsilon=1e-6`."""

from dataclasses import fields
from typing import Any

from attention.core.errors import AttentionError, quoted
from attention.core.mechanism import Mechanism
from attention.core.registry import get

PREFIX = "zoo:"
AUTO = f"{PREFIX}auto"
"""The model's own formula: softmax, its learned sinks, its softcap, its windows."""

WORDS: dict[str, Any] = {"true": True, "false": False, "null": None}


def mechanism_of(name: str) -> Mechanism | None:
    """The mechanism that a name of an implementation stands for, None for `zoo:auto`.

    Raises:
        AttentionError: no such mechanism or option, or it is no name of this kind.
    """
    if not is_ours(name):
        raise AttentionError(
            f"an attention implementation of this package begins with {PREFIX!r}, got {quoted(name)}"
        )
    if name == AUTO:
        return None
    mechanism, _, options = name.removeprefix(PREFIX).partition("?")
    return get(mechanism, **dict(_option(name, entry) for entry in options.split("&") if options))


def implementation(mechanism: str | Mechanism, **options: Any) -> str:
    """The name under which transformers knows a mechanism, as `attn_implementation` takes it.

    Raises:
        AttentionError: no such mechanism or option.
    """
    made = get(mechanism, **options)
    default = get(made.name)
    chosen = [
        f"{field.name}={_written(value)}"
        for field in fields(made)  # type: ignore[arg-type]
        if (value := getattr(made, field.name)) != getattr(default, field.name)
    ]
    return PREFIX + "?".join([made.name, *(["&".join(chosen)] if chosen else [])])


def is_ours(name: Any) -> bool:
    """Whether a name of an implementation is one of this package."""
    return isinstance(name, str) and name.startswith(PREFIX)


def _option(name: str, entry: str) -> tuple[str, Any]:
    key, equals, text = entry.partition("=")
    if not (key and equals and text):
        raise AttentionError(
            f"options are written as {PREFIX}NAME?option=value&option=value, got {quoted(name)}"
        )
    if text.lower() in WORDS:
        return key, WORDS[text.lower()]
    for kind in (int, float):
        try:
            return key, kind(text)
        except ValueError:
            continue
    return key, text


def _written(value: Any) -> str:
    words = [word for word, meaning in WORDS.items() if value is meaning]
    return words[0] if words else str(value)
