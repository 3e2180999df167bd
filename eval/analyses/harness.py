"""The lm-eval harness: offline tasks made from held-out text, or any stock task by name.

Needs the optional dependency lm-eval. The offline tasks are files in `tasks/`; they are built from the held-out
text of the run (so a comparison between runs is fair when they share a data configuration) by fixed seeds, and
download nothing. `--tasks` names others from lm-eval itself, which needs the network, or YAML files of one's own.

Results:

    {
      "tasks": {
        "cloze": {"version": 2, "samples": 200, "chance": null,
                  "sha256": "<of the documents, offline tasks only>",
                  "metrics": {"log_likelihood": {"value": -6.9, "stderr": 0.3, "higher_is_better": true},
                              "perplexity": {"value": 992.0, "stderr": 310.0, "higher_is_better": false},
                              "acc": {"value": 0.03, "stderr": 0.01, "higher_is_better": true,
                                      "parts": {"0": 0.02, "3": 0.05, ...}}}},
        "continuation": {... "chance": 0.25, "metrics": {"acc": ..., "acc_norm": ..., "acc_mutual_info": ...}},
        "order":        {... "chance": 0.5,  "metrics": {"acc": ..., "acc_norm": ...}},
        "substitution": {... "chance": 0.5,  "metrics": {"acc": ..., "acc_norm": ...}},
        "rolling":      {... "metrics": {"bits_per_byte": ..., "byte_perplexity": ..., "word_perplexity": ...}}
      },
      "headline": {"cloze": "log_likelihood", "continuation": "acc_mutual_info", "order": "acc",
                   "substitution": "acc", "rolling": "bits_per_byte"},
      "merged": 0,        continuations that the tokenizer joined to their context, encoded by themselves
      "skipped": {"cloze": "the text is too short or too plain for this task"}
    }

`samples` counts documents. An offline task that the held-out text cannot give is skipped, and the others are done; on
short documents such as names that leaves `rolling`, which scores whole texts. A metric that a filter reads from answers
is named after both ("exact_match strict-match"). `stderr` is lm-eval's, which takes all questions for independent.
`parts` are what each independent unit contributes to the value, which is their mean: a held-out document of an offline
task, whose questions are passages of few documents, and a question of any other. It is missing for values that are no
such mean (perplexities).
"""

import hashlib
import importlib.metadata
import io
import json
import logging
import math
import os
import statistics
import tempfile
from collections.abc import Mapping
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass, field
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from eval.intervals import contributions
from eval.lm_tasks.chosen import FOLDER, is_path, load
from eval.subjects.subject import Subject
from models import ModelError

SOURCES = [*sorted(FOLDER.glob("*.yaml")), FOLDER / "build.py"]
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

    tasks: tuple[str, ...] = field(
        default=tuple(OFFLINE),
        metadata={"help": "offline tasks, lm-eval's by name, or .yaml files and folders of one's own"},
    )
    include_path: str | None = field(
        default=None, metadata={"help": "folder whose tasks are known by name, too"}
    )
    samples: int = field(default=200, metadata={"help": "documents per offline task"})
    words: int = field(
        default=40, metadata={"help": "words of the context of a cloze; other tasks scale with it"}
    )
    limit: int | None = field(default=None, metadata={"help": "documents per task at most, by default all"})
    gen_kwargs: str | None = field(
        default=None, metadata={"help": "how texts are generated, like temperature=0.8,top_k=40"}
    )
    log_samples: bool = field(
        default=False, metadata={"help": "write every question and answer beside the result"}
    )
    shots: int = field(default=0, metadata={"help": "examples before each question"})
    max_length: int | None = field(
        default=None, metadata={"help": "positions, by default the training length"}
    )
    bos: bool | None = field(
        default=None,
        metadata={
            "help": "begin texts with the beginning-of-document token, by default as the tokenizer does"
        },
    )

    def __post_init__(self) -> None:
        if not self.tasks or self.samples < 1 or self.words < 8 or self.shots < 0:
            raise ModelError(
                "harness needs a task, at least one sample, at least 8 words and no negative shots"
            )
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


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    before(settings)
    # Imported late: they take seconds, are optional, and read the variables that `before` sets.
    from lm_eval import simple_evaluate

    from eval.lm_tasks.adapter import HarnessModel

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
    headline = {name: OFFLINE.get(name) or next(iter(results[name]["metrics"]), None) for name in results}
    protocol = {
        "lm_eval": importlib.metadata.version("lm_eval"),
        "positions": model.max_length,
        "bos": bool(model.begin),
        "task_versions": {name: entry["version"] for name, entry in results.items()},
    }
    return {
        "protocol": protocol,
        "results": {"tasks": results, "headline": headline, "merged": model.merged, "skipped": skipped},
    }


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table."""
    skipped = {"skipped": ", ".join(results["skipped"])} if results.get("skipped") else {}
    return skipped | {
        f"{task} {metric}": results["tasks"][task]["metrics"][metric]["value"]
        for task, metric in results["headline"].items()
        if metric is not None
    }


def _log(folder: Path, samples: Mapping[str, list[dict[str, Any]]]) -> None:
    """Write every sample of every task, as lm-eval gives it, a line each."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for task, found in samples.items():
            lines = [json.dumps(sample, default=str, ensure_ascii=False) for sample in found]
            (folder / f"{task}.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    except OSError as error:
        raise ModelError(f"cannot write the samples to {folder}: {error.strerror}") from error


def _task(name: str, report: Mapping[str, Any]) -> dict[str, Any]:
    """One task's numbers, from lm-eval's keys like "acc,none" and "acc_stderr,none"; behind the comma is the filter."""
    found = report["results"][name]
    metrics = [key.split(",") for key in found if "," in key and "_stderr," not in key]
    better = report.get("higher_is_better", {}).get(name, {})
    # Every filter has its own sample of a document.
    documents = {sample["doc_id"]: sample["doc"] for sample in report.get("samples", {}).get(name, [])}
    # Where a passage comes from is no part of the question.
    questions = [{key: doc[key] for key in doc if key != "document"} for doc in documents.values()]
    listed = json.dumps(questions, sort_keys=True, default=str)
    return {
        "version": report["versions"].get(name),
        "samples": len(documents),
        "chance": CHANCE.get(name),
        "sha256": hashlib.sha256(listed.encode()).hexdigest() if name in OFFLINE else None,
        "metrics": {
            metric if kind == "none" else f"{metric} {kind}": {
                "value": found[f"{metric},{kind}"],
                "stderr": _number(found.get(f"{metric}_stderr,{kind}")),
                "higher_is_better": better.get(metric),
            }
            | _parts(report, name, metric, kind)
            for metric, kind in metrics
            if isinstance(found[f"{metric},{kind}"], int | float)
        },
    }


def _parts(report: Mapping[str, Any], name: str, metric: str, kind: str) -> dict[str, Any]:
    """The entry `parts` of a metric, from lm-eval's answers to each question."""
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
        return {}
    units = [sample["doc"].get("document", number) for number, sample in answers.items()]
    parts = contributions([value for value, _ in values], [size for _, size in values], units)
    known = bool(parts) and math.isclose(
        statistics.fmean(parts.values()),
        report["results"][name][f"{metric},{kind}"],
        rel_tol=1e-6,
        abs_tol=1e-9,
    )
    return {"parts": parts} if known else {}


def _number(value: object) -> float | None:
    return float(value) if isinstance(value, int | float) else None
