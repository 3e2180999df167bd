"""YAML files that extend one another, and complaints about them."""

import difflib
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import yaml
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import InputError
from common.shapes import shown


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
    while waiting:
        node = waiting.pop()
        if isinstance(node, yaml.MappingNode):
            waiting += [part for pair in node.value for part in pair]
        elif isinstance(node, yaml.SequenceNode):
            waiting += node.value
        elif node is not None and node.tag.endswith((":int", ":float")) and ":" in node.value:
            return str(node.value)
    return None


def did_you_mean(names: Sequence[str]) -> str:
    """The tail of a message about a name, with those that are like it."""
    return f"; did you mean {' or '.join(map(repr, names))}?" if names else ""


def one_line(error: Exception) -> str:
    """Reword an error of OmegaConf or the system, with the key that it is about."""
    key = getattr(error, "full_key", None)
    message = (str(error).splitlines() or [type(error).__name__])[0]
    return f"{key}: {message}" if key else message
