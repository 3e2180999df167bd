"""The declaration of an analysis, and its run on a subject.

Adding an analysis is adding one file to `eval/analyses`; its name is that of the file, and the first line of its
docstring is its line in `python -m eval --help`. The file ends with a declaration that the type checker holds against
the rest:

    ANALYSIS = Analysis(settings=Settings, result=Result, run=run, row=row)

`Settings` is a frozen dataclass of options (`eval/options.py`), `Result` one of results, which `eval/codec.py` writes
and reads, and `run(subject, settings)` measures. What the report shows is declared in the terms of `eval/display.py`.
Nothing else in the project knows an analysis by its name.

A result file with the same checkpoint, model config and protocol is not computed again. What the analysis itself adds
to the protocol follows from the rest and is not compared.
"""

import time
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

from eval import options, provenance, results
from eval.codec import decode, encode
from eval.display import Column, Compared, Figure, Grid, Shown
from eval.subjects.base import Subject

S = TypeVar("S")
R = TypeVar("R")


@dataclass(frozen=True)
class Measurement(Generic[R]):
    """The output of an analysis's `run`: its results, and what it adds to the protocol."""

    results: R
    protocol: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True)
class Evaluated(Generic[R]):
    """An analysis of one subject: the result file, what it holds, and whether it was there already."""

    file: dict[str, Any]
    results: R
    reused: bool

    @property
    def subject(self) -> str:
        """The name of the subject."""
        return str(self.file["subject"]["name"])


@dataclass(frozen=True, kw_only=True)
class Analysis(Generic[S, R]):
    """The declaration of an analysis.

    Attributes:
        settings: the dataclass of its options; each has a default.
        result: the dataclass of its results.
        run: measures one subject.
        row: a result as a line of the table that the command prints.
        notes: sentences on what the numbers of a result do not cover, which the command prints, too.
        before: refuses what can be refused before a model is opened.
        applies: whether there is anything to measure of a subject; where not, a report misses nothing.
        shared: settings that depend on the subjects together, such as a prompt for all of them.
        finish: writes what is to be written of all subjects together; what it returns is printed.
        reusable: whether the protocol holds all that the numbers depend on; otherwise they are computed again.
        heading: of its section in the report; analyses of one heading share a section.
        order: of its place in the report, the least first.
        columns: of the comparison; by default the numbers of `row`, unranked.
        figures: curves and grids of all runs together.
        sentences: what the columns say, by their keys.
        section: what else its section of the page shows, as HTML, given the runs that were measured.
    """

    settings: type[S]
    result: type[R]
    run: Callable[[Subject, S], Measurement[R]]
    row: Callable[[R], Mapping[str, object]] = lambda result: {}
    notes: Callable[[R], Iterable[str]] = lambda result: ()
    before: Callable[[S], None] = lambda settings: None
    applies: Callable[[Subject], bool] = lambda subject: True
    shared: Callable[[Sequence[Subject], S], S] = lambda subjects, settings: settings
    finish: Callable[[Sequence[Evaluated[R]], S, Sequence[Subject]], Mapping[str, object]] | None = None
    reusable: Callable[[S], bool] = lambda settings: True
    heading: str = ""
    order: int = 100
    columns: Callable[[Sequence[Shown[R]]], Sequence[Column[R]]] | None = None
    figures: Callable[[Sequence[Shown[R]]], Sequence[Figure | Grid]] = lambda runs: []
    sentences: Callable[[Mapping[str, Compared]], Iterable[str]] = lambda compared: []
    section: Callable[[Sequence[Shown[R]]], str] | None = None

    @property
    def module(self) -> str:
        """The module that declares it."""
        return self.run.__module__

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.module.rpartition(".")[2]

    def path(self, subject: Subject) -> Path:
        """The result file of a subject."""
        return subject.results / f"{self.name}.json"

    def read(self, file: Mapping[str, Any]) -> R:
        """The results in a result file.

        Raises:
            InputError: they have another layout.
        """
        return decode(self.result, file["results"])


def evaluate(analysis: Analysis[S, R], subject: Subject, settings: S, *, fresh: bool = False) -> Evaluated[R]:
    """Run one analysis on one subject and write its file, unless that is there already (same model, same protocol)."""
    found = None if fresh else known(analysis, subject, settings)
    if found is not None:
        return Evaluated(found, analysis.read(found), reused=True)
    protocol = _protocol(analysis, subject, settings)
    started = time.perf_counter()
    computed = analysis.run(subject, settings)
    file = {
        "analysis": analysis.name,
        "subject": subject.describe(),
        "protocol": {**protocol, **computed.protocol},
        "results": computed.results,
        "seconds": round(time.perf_counter() - started, 2),
    }
    file = results.sealed(encode(file))
    results.write(analysis.path(subject), file)
    return Evaluated(file, computed.results, reused=False)


def known(analysis: Analysis[S, R], subject: Subject, settings: S) -> dict[str, Any] | None:
    """The result file of one analysis of one subject; None where it would have to be computed now."""
    file = results.read(analysis.path(subject)) if analysis.reusable(settings) else None
    if file is None:
        return None
    protocol = encode(_protocol(analysis, subject, settings))
    same_model = all(file["subject"].get(key) == value for key, value in subject.identity.items())
    alike = same_model and all(file["protocol"].get(key) == value for key, value in protocol.items())
    return file if alike else None


def _protocol(analysis: Analysis[S, R], subject: Subject, settings: S) -> dict[str, Any]:
    return {
        "settings": options.deciding(settings),
        **subject.protocol(),
        **provenance.protocol(analysis.module, subject.made_of),
    }
