"""Mechanisms by name. A module in `attention/mechanisms/` that registers a class is all it takes to add one."""

import pkgutil
from dataclasses import fields
from importlib import import_module
from typing import Any, TypeVar

from attention import mechanisms
from attention.errors import AttentionError, nearest
from attention.mechanism import Mechanism

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
    if name not in _registered:
        raise AttentionError(f"unknown mechanism {name!r}{nearest(name, _registered)}")
    cls = _registered[name]
    for option in options:
        known = [field.name for field in fields(cls)]  # type: ignore[arg-type]
        if option not in known:
            raise AttentionError(f"mechanism {name!r} has no option {option!r}{nearest(option, known)}")
    return cls(**options)
