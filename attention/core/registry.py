"""Mechanisms by name. A module in `attention/mechanisms/` that registers a class is all it takes to add one."""

import pkgutil
from dataclasses import fields
from functools import cache
from importlib import import_module
from numbers import Integral, Real
from types import NoneType
from typing import Any, TypeVar, get_args, get_type_hints

from attention.core.arguments import LARGEST, is_finite, is_whole, shown
from attention.core.errors import AttentionError, nearest, quoted
from attention.core.mechanism import Mechanism

_registered: dict[str, type[Mechanism]] = {}

M = TypeVar("M", bound=type[Mechanism])


def register(mechanism: M) -> M:
    """Class decorator: make a mechanism available under its `name`.

    Raises:
        AttentionError: another class already has that name, or the class states no `bounds`.
    """
    known = _registered.get(mechanism.name, mechanism)
    if (known.__module__, known.__qualname__) != (mechanism.__module__, mechanism.__qualname__):
        raise AttentionError(f"two mechanisms are named {mechanism.name!r}: {known} and {mechanism}")
    if not hasattr(mechanism, "bounds"):
        raise AttentionError(f"{mechanism.name} does not say what bounds its weights have: give it `bounds`")
    _registered.setdefault(mechanism.name, mechanism)
    return mechanism


def discover() -> None:
    """Import every module of `attention/mechanisms/`, which registers what is in it."""
    from attention import mechanisms

    for module in pkgutil.iter_modules(mechanisms.__path__, mechanisms.__name__ + "."):
        import_module(module.name)


def names() -> list[str]:
    """The names of all mechanisms, sorted."""
    return sorted(_registered)


def get(name: str | Mechanism, **options: Any) -> Mechanism:
    """A mechanism by name, with its options; an instance is returned as it is.

    Raises:
        AttentionError: unknown name or option (the nearest ones are named), or an option's value is refused.
    """
    if isinstance(name, Mechanism):
        if options:
            raise AttentionError(
                f"options {sorted(options)} were given with a mechanism that is already made"
            )
        return name
    if not isinstance(name, str):
        raise AttentionError(f"mechanism must be a name or an instance from `get`, got {shown(name)}")
    if name not in _registered:
        raise AttentionError(f"unknown mechanism {quoted(name)}{nearest(name, _registered)}")
    cls = _registered[name]
    kinds = _option_types(cls) if options else {}
    for option, value in options.items():
        if option not in kinds:
            raise AttentionError(f"mechanism {name!r} has no option {quoted(option)}{nearest(option, kinds)}")
        if not any(_fits(value, kind) for kind in kinds[option]):
            wanted = " or ".join(KINDS.get(kind, kind.__name__) for kind in kinds[option])
            raise AttentionError(f"{name}'s option {option} must be {wanted}, got {shown(value)}")
    return cls(**{option: _plain(value) for option, value in options.items()})


KINDS = {
    int: "a whole number of 64 bits",
    float: f"a finite number up to {LARGEST:.1e}",
    bool: "true or false",
    str: "a word",
    NoneType: "none",
}
"""Names that a message gives the types of options."""


@cache
def _option_types(cls: type[Mechanism]) -> dict[str, tuple[type, ...]]:
    """The types that each option may have, from the annotations of the mechanism's fields."""
    hints = get_type_hints(cls)
    return {field.name: get_args(hints[field.name]) or (hints[field.name],) for field in fields(cls)}  # type: ignore[arg-type]


def _plain(value: Any) -> Any:
    """A number of Python where it is one of NumPy, say, which kernels would print into their code by its own name."""
    if isinstance(value, bool):
        return value
    if isinstance(value, Integral):
        return int(value)
    return float(value) if isinstance(value, Real) else value


def _fits(value: Any, kind: type) -> bool:
    if kind is int or (kind is float and is_whole(value)):
        return is_whole(value) and -(2**63) <= value < 2**63
    if kind is float:
        return is_finite(value)
    return isinstance(value, kind)
