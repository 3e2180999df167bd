"""YAML files that extend one another, and complaints about them."""

import dataclasses
import difflib
import types
import typing
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import InputError
from common.reading import references
from common.shapes import finite, shown


def chain(path: Path) -> list[tuple[str, dict[str, Any]]]:
    """The files from the outermost ancestor to `path`, each with its values.

    Of several that a file extends, the later ones are laid over the earlier; a file that is reached twice counts where
    it comes first.

    Raises:
        InputError: one that is not there or cannot be read, or files that extend each other in a circle.
    """
    found: dict[Path, tuple[str, dict[str, Any]]] = {}
    _collect(path, (), found)
    return list(found.values())


def parents(path: Path) -> list[Path]:
    """The files that a config extends, as it names them.

    Raises:
        InputError: it cannot be read, or does not name files.
    """
    return _parents(path, _read(path))


def _collect(path: Path, below: tuple[Path, ...], found: dict[Path, tuple[str, dict[str, Any]]]) -> None:
    """Put the files that a config extends, then itself, behind those found."""
    here = _resolved(path)
    if here in below:
        names = " -> ".join(p.name for p in [*below, path])
        raise InputError(f"configs extend each other in a circle: {names}")
    if here in found:
        return
    values = _read(path)
    for parent in _parents(path, values):
        _collect(parent, (*below, here), found)
    values.pop("extends", None)
    found[here] = (str(path), values)


def _parents(path: Path, values: dict[str, Any]) -> list[Path]:
    named = values.get("extends")
    listed = named if isinstance(named, list) else [] if named is None else [named]
    if not all(isinstance(name, str) for name in listed):
        raise InputError(
            f"{path}: extends must be the path of a config, or a list of some, got {shown(named)}"
        )
    return [path.parent / name for name in listed]


def _resolved(path: Path) -> Path:
    try:
        return path.resolve()
    except (OSError, RuntimeError, ValueError) as error:  # links in a circle, a zero byte, too long
        raise InputError(f"no config file {shown(str(path))}: {one_line(error)}") from error


def _read(path: Path) -> dict[str, Any]:
    try:
        found = path.is_file()
    except (OSError, ValueError) as error:  # a name that is too long, a zero byte
        raise InputError(f"no config file {shown(str(path))}: {one_line(error)}") from error
    if not found:
        known = {*Path("configs").rglob("*.yaml"), *path.parent.glob("*.yaml")}
        near = difflib.get_close_matches(str(path), sorted(map(str, known)), n=3, cutoff=0.5)
        raise InputError(f"no config file {path}" + did_you_mean(near))
    try:
        # OmegaConf's reader, unlike plain YAML 1.1, takes 1e-15 for a number.
        if written := base_sixty(path.read_text(encoding="utf-8")):
            raise InputError(
                f"{path}: YAML reads {written} in base sixty; write a plain number, or a text in quotes"
            )
        loaded = OmegaConf.load(path)
        values = OmegaConf.to_container(loaded)
    except InputError:
        raise
    except yaml.YAMLError as error:
        raise InputError(f"{path} is not YAML: {' '.join(str(error).split())}") from error
    except (OmegaConfBaseException, ValueError, OSError) as error:
        raise InputError(f"{path}: {one_line(error)}") from error
    except RecursionError as error:
        raise InputError(f"{path} is nested too deeply") from error
    if not isinstance(values, dict):
        raise InputError(f"{path} must hold keys and values, like 'train: {{steps: 100}}'")
    return values  # type: ignore[return-value]


def base_sixty(text: str) -> str | None:
    """The first number of a YAML text that is read in base sixty, as 1:30 is read as 90; None where there is none."""
    try:
        waiting = [yaml.compose(text, Loader=yaml.SafeLoader)]
    except (yaml.YAMLError, ValueError, RecursionError):
        return None
    # An alias is the node it stands for, which it may even be a part of.
    seen: set[int] = set()
    while waiting:
        node = waiting.pop()
        if id(node) in seen:
            continue
        seen.add(id(node))
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif node is not None and node.tag.endswith((":int", ":float")) and ":" in node.value:
            return str(node.value)
    return None


def misread(values: Mapping[str, Any], schema: type, prefix: str = "") -> str | None:
    """Say what OmegaConf would take for fields of a dataclass without a word, or change: None if there is nothing.

    Any number for a boolean, a boolean for a number, its own texts; and `no`, 007 and 1.10 for the texts "False", "7"
    and "1.1". References are not followed: a config may come from somebody else, and `${oc.env:TOKEN}` is a secret.
    """
    for name, kind in typing.get_type_hints(schema).items():
        if name in values:
            value, full = values[name], f"{prefix}{name}"
            if dataclasses.is_dataclass(kind) and isinstance(value, Mapping):
                problem = misread(value, typing.cast(type, kind), f"{full}.")
            else:
                problem = _misread(value, kind, full)
            if problem:
                return problem
    return None


def _misread(value: Any, kind: Any, name: str) -> str | None:
    kinds = typing.get_args(kind) if isinstance(kind, types.UnionType) else (kind,)
    if value == "???":
        return f"{name}: '???' is no value; leave the key out for its default"
    if typing.get_origin(kind) is dict and not isinstance(value, Mapping):
        return f"{name} must be a section of keys and values, got {shown(value)}"
    if bool in kinds and not isinstance(value, bool | None):
        return f"{name} must be true or false, got {shown(value)}"
    if isinstance(value, bool) and bool not in kinds and {int, float} & set(kinds):
        return f"{name} must be a number, got {value}"
    if float in kinds and isinstance(value, int) and not finite(value):
        return f"{name} must be a number that a float can hold, got {shown(value)}"
    if is_text(kinds) and not isinstance(value, str | None):
        return f"{name} must be a text, got {shown(value)}; in quotes it is one"
    if reference := next(references(value, name), None):
        return f"{reference} is a reference, which is not followed; write the value itself"
    return None


def is_text(kinds: Sequence[Any]) -> bool:
    """Whether fields of these types hold a text or nothing."""
    return all(kind in (str, types.NoneType) or typing.get_origin(kind) is Literal for kind in kinds)


def did_you_mean(names: Sequence[str]) -> str:
    """The tail of a message about a name, with those that are like it."""
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def one_line(error: Exception) -> str:
    """Reword an error of OmegaConf or the system, with the key that it is about."""
    key = getattr(error, "full_key", None)
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{key}: {message}" if key else message
