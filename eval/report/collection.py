"""The runs of a report as they lie on disk: results, training log, config and record."""

import importlib.metadata
import platform
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

from common.errors import InputError
from common.reading import read_json, read_yaml
from eval import catalogue, provenance
from eval.analysis import Analysis
from eval.display import Shown
from eval.results import read as read_result
from eval.subjects.base import Subject
from storage import log
from storage.machine import machine

PACKAGES = ("torch", "lm_eval", "transformers", "matplotlib", "jinja2")
"""Packages whose versions the page names."""


@dataclass(frozen=True)
class Measured:
    """A run and all that is known about it.

    Attributes:
        name: unique among the runs compared.
        label: what attends, e.g. "softmax*1,swat*3".
        path: of the run.
        step: of the checkpoint, None where the run has no steps.
        checkpoint: sha256 of the weights.
        train_length: tokens per training sequence.
        parameters: how many numbers were trained, shared ones counted once.
        results: result files by analysis, all measured on this checkpoint, and of a layout that the analysis reads.
        missing: why there is no result, by analysis; "training" stands for the training log.
        outdated: what of a result's protocol is no longer what it would be now, by analysis.
        metrics: records of the training log up to `step`.
        config, record: config.yaml and run.json; None for a model that others trained.
    """

    name: str
    label: str
    path: str
    step: int | None
    checkpoint: str
    train_length: int
    parameters: int
    results: Mapping[str, Mapping[str, Any]]
    missing: Mapping[str, str]
    metrics: Sequence[Mapping[str, Any]]
    config: Mapping[str, Any] | None = None
    record: Mapping[str, Any] | None = None
    outdated: Mapping[str, str] = field(default_factory=dict)

    @cached_property
    def typed(self) -> dict[str, Any]:
        """The results by analysis, as the analysis declares them."""
        return {name: catalogue.get(name).read(file) for name, file in self.results.items()}

    def logged(self, key: str) -> list[tuple[int, float]]:
        """(step, value) of each line of the training log that has `key`."""
        return [(record["step"], record[key]) for record in self.metrics if record.get(key) is not None]

    def last(self, key: str) -> float | None:
        """The newest value of `key` in the training log."""
        return next((value for _, value in reversed(self.logged(key))), None)


def shown(runs: Sequence[Measured], analysis: str) -> list[Shown[Any]]:
    """The runs that have the result of an analysis, as it sees them."""
    return [
        Shown(
            name=run.name,
            place=place,
            label=run.label,
            train_length=run.train_length,
            results=run.typed[analysis],
            protocol=run.results[analysis]["protocol"],
        )
        for place, run in enumerate(runs)
        if analysis in run.results
    ]


def collect(subjects: Sequence[Subject]) -> list[Measured]:
    """Everything the runs have left on disk; runs of one name are told apart by their path."""
    names = [subject.name for subject in subjects]
    with provenance.read_once():
        return [
            measured(subject, subject.name if names.count(subject.name) == 1 else str(subject.path))
            for subject in subjects
        ]


def measured(subject: Subject, name: str) -> Measured:
    """Read one run from disk.

    Args:
        subject: the run.
        name: to call it by.

    Raises:
        ModelError: its config or record cannot be read.
    """
    results, missing, outdated = {}, {}, {}
    protocol = _protocol(subject)
    for kind, known in catalogue.every().items():
        file = read_result(subject.results / f"{kind}.json")
        if file is None:
            if (subject.results / f"{kind}.json").exists():
                missing[kind] = "the result file is damaged or was edited"
            elif known.applies(subject):
                missing[kind] = "not measured"
        elif reason := _foreign(file, subject) or _unreadable(file, known):
            missing[kind] = reason
        else:
            results[kind] = file
            now = protocol | provenance.protocol(known.module, subject.made_of)
            if changed := [entry for entry in now if file["protocol"].get(entry) != now[entry]]:
                outdated[kind] = ", ".join(changed)
    logged = log.read(subject.path)
    if subject.step is not None:
        logged = [record for record in logged if record["step"] <= subject.step]
    if not logged:
        missing["training"] = "not logged"
    return Measured(
        name=name,
        label=subject.label,
        path=str(subject.path),
        step=subject.step,
        checkpoint=subject.checkpoint,
        train_length=subject.train_length,
        parameters=sum(parameter.numel() for parameter in subject.network.parameters()),
        results=dict(sorted(results.items())),
        missing=dict(sorted(missing.items())),
        metrics=logged,
        config=_given(subject.path / "config.yaml", read_yaml),
        record=_given(subject.path / "run.json", read_json),
        outdated=dict(sorted(outdated.items())),
    )


def environment() -> dict[str, str]:
    """The machine and versions that made the report."""
    found = machine() | {"python": platform.python_version()}
    for package in PACKAGES:
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            found[package] = "not installed"
    return found


def _foreign(file: Mapping[str, Any], subject: Subject) -> str | None:
    """The reason why a result is none of this model; None where it is."""
    measured = file["subject"]
    if measured.get("checkpoint") != subject.checkpoint:
        return f"measured on another checkpoint (step {measured.get('step')})"
    if measured.get("architecture") != subject.architecture:
        return "measured with another model config"
    return None


def _unreadable(file: Mapping[str, Any], analysis: Analysis[Any, Any]) -> str | None:
    """The reason why an analysis cannot read a result file; None where it can."""
    try:
        analysis.read(file)
    except InputError as error:
        return f"written in a layout that is no longer read ({error})"
    return None


def _protocol(subject: Subject) -> dict[str, Any]:
    """The entries of a protocol that the subject decides, the device apart; none where its text cannot be had."""
    try:
        return {name: entry for name, entry in subject.protocol().items() if name != "device"}
    except InputError:
        return {}


def _given(path: Path, read: Callable[[Path, type], Any]) -> dict[str, Any] | None:
    """A file of a run, None if there is none."""
    return read(path, dict) if path.is_file() else None
