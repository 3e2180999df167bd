"""The lm-eval harness: offline tasks made from held-out text, or any stock task by name.

Needs the optional dependency lm-eval. The offline tasks are files in `tasks/`; they are built from the held-out
text of the run (so a comparison between runs is fair when they share a data configuration) by fixed seeds, and
download nothing. `--tasks` names others from lm-eval itself, which needs the network, or YAML files of one's own.

Results: `Result` below.

An offline task that the held-out text cannot give is skipped, and the others are done; on short documents such as names
that leaves `rolling`, which scores whole texts. A metric that a filter reads from answers is named after both
("exact_match strict-match").
"""

import importlib.metadata
import io
import json
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Mapping, Sequence
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from common import files
from common.hashing import json_hash
from eval.analysis import Analysis, Measurement
from eval.display import Column, Shown, thousandths
from eval.intervals import contributions
from eval.lm_tasks.chosen import is_path, load
from eval.options import option
from eval.subjects.base import Subject
from models import ModelError

OFFLINE = {
    "cloze": "log_likelihood",
    "continuation": "acc_mutual_info",
    "order": "acc",
    "substitution": "acc",
    "rolling": "bits_per_byte",
}
"""The offline tasks and the metric that a table shows of each."""
CHANCE = {"continuation": 0.25, "order": 0.5, "substitution": 0.5}


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    tasks: tuple[str, ...] = option(
        tuple(OFFLINE), "offline tasks, lm-eval's by name, or .yaml files and folders of one's own"
    )
    include_path: str | None = option(None, "folder whose tasks are known by name, too")
    samples: int = option(200, "documents per offline task")
    words: int = option(40, "context of a cloze; other tasks scale with it", unit="words")
    limit: int | None = option(None, "documents per task at most", unset="all")
    gen_kwargs: str | None = option(
        None, "how texts are generated, like temperature=0.8,top_k=40", unset="as each task says"
    )
    log_samples: bool = option(False, "write every question and answer beside the result")
    shots: int = option(0, "examples before each question")
    max_length: int | None = option(
        None, "longest context and continuation together", unit="tokens", unset="the training length"
    )
    bos: bool | None = option(
        None, "begin texts with the beginning-of-document token", unset="as the tokenizer does"
    )

    def __post_init__(self) -> None:
        if not self.tasks or self.samples < 1 or self.words < 8 or self.shots < 0:
            raise ModelError(
                "harness needs a task, at least one sample, at least 8 words and no negative shots"
            )
        if self.limit is not None and self.limit < 1:
            raise ModelError(f"--limit must be at least one document, got {self.limit}")
        malformed = [part for part in (self.gen_kwargs or "").split(",") if part and "=" not in part]
        if malformed:
            raise ModelError(f"--gen-kwargs takes name=value,name=value, not {malformed[0]!r}")

    @property
    def offline(self) -> bool:
        """Whether no task needs the network."""
        return set(self.tasks) <= OFFLINE.keys()


def before(settings: Settings) -> None:
    """Keep lm-eval and what it imports from looking for a network that no task needs.

    Raises:
        ModelError: lm-eval is not installed.
    """
    if find_spec("lm_eval") is None:
        raise ModelError("the harness needs the package lm-eval: pip install -e '.[eval]'")
    if settings.offline:
        for variable in ("HF_HUB_OFFLINE", "HF_DATASETS_OFFLINE"):
            os.environ.setdefault(variable, "1")


def reusable(settings: Settings) -> bool:
    """Tasks of a user's own depend on files that are not looked at."""
    return settings.include_path is None and not any(map(is_path, settings.tasks))


@dataclass(frozen=True)
class Metric:
    """A number of a task.

    Attributes:
        value: of all questions.
        stderr: lm-eval's, which takes all questions for independent.
        higher_is_better: None where lm-eval does not say.
        parts: what each independent unit contributes to the value, which is their mean: a held-out document of an
            offline task, whose questions are passages of few documents, and a question of any other. None for values
            that are no such mean (perplexities).
    """

    value: float
    stderr: float | None
    higher_is_better: bool | None
    parts: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Task:
    """The numbers of a task.

    Attributes:
        version: of the task.
        samples: documents, which are questions.
        chance: what guessing gets, where that is known.
        sha256: of the documents, of offline tasks only.
        metrics: by name.
    """

    version: Any
    samples: int
    chance: float | None
    sha256: str | None
    metrics: Mapping[str, Metric]


@dataclass(frozen=True)
class Result:
    """The tasks, the metric that a table shows of each, and what was left out.

    Attributes:
        tasks: by name.
        headline: the metric of each task that a table shows; None where it has none.
        merged: continuations that the tokenizer joined to their context, encoded by themselves.
        skipped: why offline tasks could not be made.
    """

    tasks: Mapping[str, Task]
    headline: Mapping[str, str | None]
    merged: int = 0
    skipped: Mapping[str, str] = field(default_factory=dict)

    def metric(self, task: str, name: str) -> Metric | None:
        """A metric of a task; None where it was not measured."""
        return self.tasks[task].metrics.get(name) if task in self.tasks else None


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    before(settings)
    # Imported late: they take seconds, are optional, and read the variables that `before` sets.
    from lm_eval import simple_evaluate

    from eval.language_model import HarnessModel

    model = HarnessModel(subject, settings.max_length, settings.bos)
    for library in ("lm_eval", "huggingface_hub", "datasets"):
        logging.getLogger(library).setLevel(logging.ERROR)
    with tempfile.TemporaryDirectory() as folder:
        texts = Path(folder) / "texts.json"
        texts.write_text(json.dumps(subject.held_out()), encoding="utf-8")
        metadata = {"texts": str(texts), "samples": settings.samples, "words": settings.words}
        # What lm-eval prints and its progress bars say nothing that the results do not.
        with redirect_stdout(io.StringIO()), redirect_stderr(io.StringIO()):
            manager, tasks, skipped = load(settings.tasks, list(OFFLINE), settings.include_path, metadata)
            try:
                report = simple_evaluate(
                    model=model,
                    tasks=tasks,
                    task_manager=manager,
                    num_fewshot=settings.shots,
                    limit=settings.limit,
                    gen_kwargs=settings.gen_kwargs,
                    bootstrap_iters=100,
                )
            except ModelError:
                raise
            except (OSError, ValueError) as error:
                reason = " ".join(str(error).split())[:300]
                raise ModelError(f"lm-eval cannot run {', '.join(settings.tasks)}: {reason}") from error
    if settings.log_samples:
        _log(subject.results / "harness-samples", report["samples"])
    results = {name: _task(name, report) for name in report["results"]}
    headline = {name: OFFLINE.get(name) or next(iter(results[name].metrics), None) for name in results}
    protocol = {
        "lm_eval": importlib.metadata.version("lm_eval"),
        "positions": model.max_length,
        "bos": bool(model.begin),
        "task_versions": {name: entry.version for name, entry in results.items()},
    }
    return Measurement(Result(results, headline, model.merged, skipped), protocol)


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    skipped = {"skipped": ", ".join(result.skipped)} if result.skipped else {}
    return skipped | {
        f"{task} {metric}": result.tasks[task].metrics[metric].value
        for task, metric in result.headline.items()
        if metric is not None
    }


def columns(runs: Sequence[Shown[Result]]) -> list[Column[Result]]:
    """The headline of each task."""
    found: dict[tuple[str, str], Column[Result]] = {}
    for run in runs:
        for task, name in run.results.headline.items():
            if name is not None and (metric := run.results.metric(task, name)) is not None:
                found.setdefault((task, name), _column(task, name, metric, run.results.tasks[task].chance))
    return list(found.values())


def _column(task: str, name: str, metric: Metric, chance: float | None) -> Column[Result]:
    def of(result: Result, part: str) -> Any:
        return getattr(result.metric(task, name), part, None)

    higher = metric.higher_is_better
    return Column(
        key=f"{task}_{name}",
        group="Harness tasks",
        title=task,
        unit=name.replace("_", " ") + ("" if chance is None else f", chance {chance:g}"),
        better=None if higher is None else "higher" if higher else "lower",
        show=thousandths,
        value=partial(of, part="value"),
        parts=partial(of, part="parts"),
        # lm-eval's takes questions for independent, which those of the offline tasks are not.
        error=(lambda result: None) if task in OFFLINE else partial(of, part="stderr"),
    )


def _log(folder: Path, samples: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write every sample of every task, as lm-eval gives it, a line each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task, found in samples.items():
            lines = [json.dumps(sample, default=str, ensure_ascii=False) for sample in found]
            files.write(folder / f"{task}.jsonl", "".join(f"{line}\n" for line in lines))
    except OSError as error:
        raise ModelError(f"cannot write the samples to {folder}: {error.strerror}") from error


def _task(name: str, report: Mapping[str, Any]) -> Task:
    """One task's numbers, from lm-eval's keys like "acc,none" and "acc_stderr,none"; behind the comma is the filter."""
    found = report["results"][name]
    metrics = [key.split(",") for key in found if "," in key and "_stderr," not in key]
    better = report.get("higher_is_better", {}).get(name, {})
    # Every filter has its own sample of a document.
    documents = {sample["doc_id"]: sample["doc"] for sample in report.get("samples", {}).get(name, [])}
    # Where a passage comes from is no part of the question.
    questions = [{key: doc[key] for key in doc if key != "document"} for doc in documents.values()]
    return Task(
        version=report["versions"].get(name),
        samples=len(documents),
        chance=CHANCE.get(name),
        sha256=json_hash(questions, otherwise=str) if name in OFFLINE else None,
        metrics={
            metric if kind == "none" else f"{metric} {kind}": Metric(
                value=found[f"{metric},{kind}"],
                stderr=_number(found.get(f"{metric}_stderr,{kind}")),
                higher_is_better=better.get(metric),
                parts=_parts(report, name, metric, kind),
            )
            for metric, kind in metrics
            if isinstance(found[f"{metric},{kind}"], int | float)
        },
    )


def _parts(report: Mapping[str, Any], name: str, metric: str, kind: str) -> dict[str, float] | None:
    """Contributions of independent units to a metric, from lm-eval's answers to each question."""
    answers = {
        sample["doc_id"]: sample
        for sample in report.get("samples", {}).get(name, [])
        if sample.get("filter", kind) == kind and metric in sample
    }
    values = [sample[metric] for sample in answers.values()]
    if metric == "bits_per_byte":
        values = [(-likelihood / math.log(2), size) for likelihood, size in values]
    else:
        values = [(_number(value), 1) for value in values]
    if any(value is None for value, _ in values):
        return None
    units = [sample["doc"].get("document", number) for number, sample in answers.items()]
    parts = contributions([value for value, _ in values], [size for _, size in values], units)
    known = bool(parts) and math.isclose(
        statistics.fmean(parts.values()),
        report["results"][name][f"{metric},{kind}"],
        rel_tol=1e-6,
        abs_tol=1e-9,
    )
    return parts if known else None


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    before=before,
    reusable=reusable,
    order=50,
    columns=columns,
)
