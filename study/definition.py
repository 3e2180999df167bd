"""The file of a study: a base config, a grid, seeds, what is measured, and the claims.

    extends: other.yaml                         # a study whose entries hold where this file has none of its own
    base: ../demo/base.yaml                     # a config of training; paths are relative to this file
    overrides: [train.steps=300]                # changes for every run, as train.py takes them: keys, or configs
    grid:                                       # one part of each axis makes a variant, "softpick-muon"
      attention:
        softmax: []
        softpick: [model.attention=softpick]
      optimizer:
        adamw: []
        muon: [train.optimizer=muon]
    baseline: softmax-adamw
    seeds: [1, 2, 3]                            # runs of a seed share initial weights, data and order
    tuning:                                     # the best of some values, for each variant by itself
      key: train.learning_rate
      values: [1e-3, 3e-3, 1e-2]
      seeds: [101]                              # used for nothing else
    analyses: [sinks, "lengths --multiples 1,4"]    # as after `python -m eval`
    metrics: [bits_per_byte, sink_rate]         # what the first page shows, in this order
    claims: [...]                               # study/claims.py

Everything but base, grid, baseline and seeds may be left out.
"""

import itertools
import os
import re
import shlex
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common.command import Parser
from common.configs import chain
from common.errors import InputError, nearest
from common.reading import read_yaml
from eval import catalogue
from eval.codec import decode
from eval.options import add_options
from study import claims
from study.claims import Claim
from training.config import names_config

ROOT = Path("runs/studies")
"""The folder of all studies' runs."""

LENGTH = ("train.steps", "train.warmup_steps")
"""Keys of how long a run is."""

OWN = ("seed", "name", "out", "train.tracker")
"""Keys that the study itself sets for each run, whatever else is said of them."""

NAME = re.compile(r"[\w][\w.]*")


@dataclass(frozen=True)
class Tuning:
    """A key that is set for each variant by itself, by the loss on held-out text at the end of a run.

    Attributes:
        key: of the training config.
        values: to try.
        seeds: of the runs that choose, none of them a seed of the study; the mean over them decides.
    """

    key: str
    values: list[float]
    seeds: list[int]


@dataclass(frozen=True)
class File:
    """The entries of a study's YAML file; see the module's docstring."""

    base: str
    grid: dict[str, dict[str, list[str]]]
    baseline: str
    seeds: list[int]
    about: str = ""
    overrides: list[str] = field(default_factory=list)
    tuning: Tuning | None = None
    analyses: list[str] = field(default_factory=list)
    metrics: list[str] = field(default_factory=lambda: ["bits_per_byte"])
    claims: list[Claim] = field(default_factory=list)


@dataclass(frozen=True)
class Study:
    """A study that can be run.

    Attributes:
        name: the stem of its file.
        path: of its file.
        base: the config that it starts from.
        file: what the file says.
        variants: overrides of each, by name.
    """

    name: str
    path: Path
    base: Path
    file: File
    variants: dict[str, list[str]]

    @property
    def folder(self) -> Path:
        """The folder of its runs and of what is made of them."""
        return ROOT / self.name

    @cached_property
    def parts(self) -> dict[str, tuple[str, ...]]:
        """The parts of each variant's name, one of every axis."""
        return {"-".join(parts): parts for parts in itertools.product(*self.file.grid.values())}

    def overrides(self, variant: str) -> list[str]:
        """What every run and those of a variant change of the base config; configs as paths from here."""
        told = [*self.file.overrides, *self.variants[variant]]
        return [os.path.relpath(self.path.parent / text) if names_config(text) else text for text in told]

    @cached_property
    def base_config(self) -> list[Any]:
        """What the base config says, file by file."""
        return said_by(self.base)

    @property
    def lengths(self) -> list[str]:
        """The baseline and the variants that differ from it in the number of steps alone."""
        rest = {
            name: [text for text in told if text.partition("=")[0] not in LENGTH]
            for name, told in self.variants.items()
        }
        return [name for name, told in rest.items() if told == rest[self.file.baseline]]


def load(path: str | Path) -> Study:
    """Read and check the file of a study.

    Raises:
        InputError: it cannot be read, or could not be run or decided; names the entry and what would be right.
    """
    path = Path(path)
    if not path.is_file():
        raise InputError(f"no study file {path}; those that come along lie in configs/studies")
    entries: dict[str, Any] = {}
    for source, _ in chain(path):
        entries = _laid_over(entries, read_yaml(Path(source), dict))
    entries.pop("extends", None)
    file = decode(File, entries, str(path))
    study = Study(path.stem, path, (path.parent / file.base).resolve(), file, dict(_variants(file.grid)))
    try:
        _check(study)
    except InputError as error:
        raise InputError(f"{path}: {error}") from error
    return study


def said_by(path: Path) -> list[Any]:
    """What a config and those that it extends say, file by file."""
    return [values for _, values in chain(path)]


def options_of(line: str) -> tuple[str, list[str]]:
    """The analysis and the options of an entry of `analyses`.

    Raises:
        InputError: no such analysis, or one that has no such option.
    """
    try:
        name, *options = shlex.split(line)
    except ValueError as error:
        raise InputError(f"analysis {line!r} cannot be read: {error}") from error
    parser = Parser(prog=f"analysis {name}", add_help=False)
    add_options(parser, catalogue.get(name).settings)
    parser.parse_args(options)
    return name, options


def _laid_over(under: dict[str, Any], over: dict[str, Any]) -> dict[str, Any]:
    """Entries over others; of sections that both have, entry by entry."""
    both = {
        key: _laid_over(under[key], value)
        for key, value in over.items()
        if isinstance(value, dict) and isinstance(under.get(key), dict)
    }
    return under | over | both


def _variants(grid: dict[str, dict[str, list[str]]]) -> Iterator[tuple[str, list[str]]]:
    """Each variant with its overrides: one part of every axis."""
    for parts in itertools.product(*(axis.items() for axis in grid.values())):
        yield "-".join(name for name, _ in parts), [text for _, texts in parts for text in texts]


def _check(study: Study) -> None:
    file = study.file
    if not NAME.fullmatch(study.name):
        raise InputError(f"the file's name {study.name!r} must be letters, digits, '.' and '_'")
    if not file.grid or not all(file.grid.values()):
        raise InputError("grid needs an axis, and each axis a part, like {attention: {softmax: []}}")
    for name in (name for axis in file.grid.values() for name in axis):
        if not NAME.fullmatch(name):
            raise InputError(f"grid: the name {name!r} must be letters, digits, '.' and '_'")
    if file.baseline not in study.variants:
        raise InputError(f"no variant {file.baseline!r} for baseline{nearest(file.baseline, study.variants)}")
    parts = [(f"grid.{axis}", texts) for axis, some in file.grid.items() for texts in some.values()]
    tuned = [] if file.tuning is None else [f"{file.tuning.key}="]
    for where, texts in [("overrides", file.overrides), *parts, ("tuning.key", tuned)]:
        if own := [key for text in texts if (key := text.partition("=")[0]) in OWN]:
            raise InputError(f"{where}: the study itself sets {own[0]} of each run; leave it out")
    _distinct("seeds", file.seeds)
    for line in file.analyses:
        options_of(line)
    _distinct("analyses", [shlex.split(line)[0] for line in file.analyses], empty=True)
    _distinct("metrics", file.metrics)
    if file.tuning is not None:
        _distinct("tuning.values", file.tuning.values)
        _distinct("tuning.seeds", file.tuning.seeds)
        if shared := sorted({*file.tuning.seeds} & {*file.seeds}):
            raise InputError(f"tuning.seeds: {shared[0]} is a seed of the study; what chose must not judge")
    claims.check(file.claims, list(study.variants))


def _distinct(name: str, values: Sequence[object], *, empty: bool = False) -> None:
    if not values and not empty:
        raise InputError(f"{name} must not be empty")
    if len(set(values)) < len(values):
        raise InputError(f"{name} holds an entry twice: {', '.join(map(str, values))}")
