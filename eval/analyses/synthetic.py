"""Copy, induction, maximum and passkey at 1 to 16 times the training length, for runs that were trained on them.

The tasks are in `data/corpora/synthetic.py`, which makes the training documents, too: those have from a quarter of
`data.task_length` symbols up to all of it. Here documents have 1 to 16 times `task_length` symbols, each behind a
beginning-of-document token, and come from seeds that training cannot use. An answer is right where it is the most
likely token given everything before it, the true earlier answers included; all answers of a document being right is
what greedy decoding needs to write them.

A run that was trained on something else has no results but the reason.

Results (shares from 0 to 1, loss in nats per answer):

    {
      "task": "induction", "train_length": 64,
      "lengths": {
        "64": {"multiple": 1, "documents": 200, "answers": 1600, "accuracy": 0.99, "stderr": 0.002, "exact": 0.95,
               "loss": 0.03,
               "chance": 0.11,             what naming a symbol of the context at random would get
               "by_document": [1.0, 0.875, ...]},         accuracy in each document, the same for all runs of a task
        "128": {...}
      },
      "skipped": [{"length": 1024, "multiple": 16, "reason": "..."}]
    }

The standard error is over documents. Chance counts the symbols that may be an answer only.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch

from data.corpora.synthetic import Example, example
from eval.analysis import progress
from eval.display import Line, Number, Plot
from eval.intervals import standard_error
from eval.subjects.subject import Subject
from eval.windows import obstacle
from models import ModelError

UNTRAINED = "not trained on a task of symbols (data.corpus=synthetic)"


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    multiples: tuple[int, ...] = field(
        default=(1, 2, 4, 8, 16), metadata={"help": "lengths in training lengths"}
    )
    documents: int = field(default=200, metadata={"help": "documents at every length"})
    seed: int = field(default=0, metadata={"help": "another seed, other documents"})

    def __post_init__(self) -> None:
        if min(self.multiples, default=0) < 1 or self.documents < 1 or self.seed < 0:
            raise ModelError("synthetic needs multiples and documents of at least 1 and a seed of at least 0")


def run(subject: Subject, settings: Settings) -> dict[str, Any]:
    """Measure one subject; the layout of the results is in the module's docstring."""
    data = subject.config.get("data", {})
    if data.get("corpus") != "synthetic":
        why = {"length": None, "multiple": None, "reason": UNTRAINED}
        return {"protocol": {}, "results": {"task": None, "lengths": {}, "skipped": [why]}}
    task, train_length = data["task"], data["task_length"]
    measured: dict[str, dict[str, Any]] = {}
    skipped: list[dict[str, Any]] = []
    for multiple in sorted(set(settings.multiples)):
        length = train_length * multiple
        reason = obstacle(subject, length)
        if reason is not None:
            skipped.append({"length": length, "multiple": multiple, "reason": reason})
            continue
        # Negative seeds are never trained on.
        examples = [example(task, length, -1 - settings.seed, index) for index in range(settings.documents)]
        measured[str(length)] = {"multiple": multiple, **_answered(subject, examples, f"{task} T={length}")}
    results = {"task": task, "train_length": train_length, "lengths": measured, "skipped": skipped}
    return {"protocol": {"bos": subject.bos is not None}, "results": results}


def row(results: Mapping[str, Any]) -> dict[str, object]:
    """One line of the comparison table."""
    if results["task"] is None:
        return {"skipped": results["skipped"][0]["reason"]}
    accuracies = {f"{entry['multiple']}x": entry["accuracy"] for entry in results["lengths"].values()}
    return {"task": results["task"], **accuracies}


def numbers(results: Mapping[str, Any]) -> list[Number]:
    """Accuracy at each length, for the report."""
    return [
        Number(
            f"{results['task']} at {entry['multiple']}×",
            entry["accuracy"],
            "accuracy",
            "higher",
            parts={str(number): share for number, share in enumerate(entry.get("by_document", []))},
            error=entry["stderr"],
        )
        for entry in results.get("lengths", {}).values()
    ]


def plots(results: Mapping[str, Any]) -> list[Plot]:
    """Accuracy by length, for the report."""
    entries = results.get("lengths", {})
    if not entries:
        return []
    lengths = [int(length) for length in entries]
    lines = [Line(lengths, [entry[key] for entry in entries.values()]) for key in ("accuracy", "chance")]
    caption = "Share of right answers, given the true earlier ones. Dashed: what naming a symbol at random would get."
    mark = (results["train_length"], "longest in training")
    return [
        Plot(f"Task {results['task']}", caption, "symbols", "accuracy", lines, log_x=2, ticks=True, mark=mark)
    ]


def chance(examples: list[Example]) -> float:
    """The share of answers that naming a symbol before them at random gets right, on average."""
    shares = []
    for one in examples:
        seen: Counter[str] = Counter()
        answers = set(one.answers)
        for place, symbol in enumerate(one.text):
            if place in answers:
                shares.append(seen[symbol] / max(1, seen.total()))
            if symbol in one.choices:
                seen[symbol] += 1
    return sum(shares) / len(shares)


def _answered(subject: Subject, examples: list[Example], what: str) -> dict[str, Any]:
    """How many answers of documents that have them in the same places are right."""
    begin = [] if subject.bos is None else [subject.bos]
    rows = [begin + subject.encode(one.text) for one in examples]
    if any(len(row) != len(begin) + len(one.text) for row, one in zip(rows, examples, strict=True)):
        raise ModelError(f"the tokenizer of {subject.name} does not make each symbol a token")
    tokens = torch.tensor(rows)
    places = torch.tensor(examples[0].answers) + len(begin)
    correct, nats = [], []
    for batch in progress(tokens.split(subject.batch(tokens.shape[1])), f"{subject.name} {what}"):
        logits = subject.logits(batch[:, :-1])[:, places - 1].cpu()
        wanted = batch[:, places]
        correct.append(logits.argmax(-1) == wanted)
        nats.append(-logits.double().log_softmax(-1).gather(-1, wanted[..., None]))
    right = torch.cat(correct).double()
    by_document = right.mean(-1)
    return {
        "documents": len(examples),
        "answers": right.numel(),
        "accuracy": float(right.mean()),
        "stderr": standard_error(by_document.tolist()),
        "exact": float((by_document == 1).double().mean()),
        "loss": float(torch.cat(nats).mean()),
        "chance": chance(examples),
        "by_document": by_document.tolist(),
    }
