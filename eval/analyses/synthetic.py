"""Tasks made of symbols at 1 to 16 times the training length, for runs that were trained on them.

The tasks are in `data/corpora/synthetic.py`, which makes the training documents, too: those have from a quarter of
`data.task_length` symbols up to all of it. Here documents have 1 to 16 times `task_length` symbols, each behind a
beginning-of-document token, and come from seeds that training cannot use. An answer is right where it is the most
likely token given everything before it, the true earlier answers included; all answers of a document being right is
what greedy decoding needs to write them.

A run that was trained on something else has no results but the reason.

Results: `Result` below, with shares from 0 to 1 and losses in nats per answer. The standard error is over documents.
Chance counts the symbols that may be an answer only.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field

import torch

from data.corpora.synthetic import Example, example
from eval.analysis import Analysis, Measurement
from eval.display import Line, Number, Plot, columns_of, overlaid
from eval.intervals import standard_error
from eval.options import option
from eval.subjects.base import Subject
from eval.terminal import progress
from eval.windows import obstacle
from models import ModelError

UNTRAINED = "not trained on a task of symbols (data.corpus=synthetic)"


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    multiples: tuple[int, ...] = option((1, 2, 4, 8, 16), "lengths of documents", unit="training lengths")
    documents: int = option(200, "documents at every length")
    seed: int = option(0, "of the documents: another seed, other documents")

    def __post_init__(self) -> None:
        if min(self.multiples, default=0) < 1 or self.documents < 1 or self.seed < 0:
            raise ModelError("synthetic needs multiples and documents of at least 1 and a seed of at least 0")


@dataclass(frozen=True)
class AtLength:
    """Answers in documents of one length.

    Attributes:
        multiple: the length in training lengths.
        documents, answers: how many of them.
        accuracy: share of right answers.
        stderr: its standard error over documents.
        exact: share of documents with no wrong answer.
        loss: in nats per answer.
        chance: what naming a symbol of the context at random would get.
        by_document: accuracy in each document, the same for all runs of a task.
    """

    multiple: int
    documents: int
    answers: int
    accuracy: float
    stderr: float | None
    exact: float
    loss: float
    chance: float
    by_document: list[float] | None = None


@dataclass(frozen=True)
class Skipped:
    """A length that could not be measured, or None where the run was trained on no task."""

    length: int | None
    multiple: int | None
    reason: str


@dataclass(frozen=True)
class Result:
    """The answers by symbols of a document; no task where the run was trained on something else."""

    task: str | None
    lengths: Mapping[str, AtLength] = field(default_factory=dict)
    skipped: list[Skipped] = field(default_factory=list)
    train_length: int | None = None


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    data = subject.config.get("data", {})
    if data.get("corpus") != "synthetic":
        return Measurement(Result(task=None, skipped=[Skipped(None, None, UNTRAINED)]))
    task, train_length = data["task"], data["task_length"]
    measured: dict[str, AtLength] = {}
    skipped: list[Skipped] = []
    for multiple in sorted(set(settings.multiples)):
        length = train_length * multiple
        reason = obstacle(subject, length)
        if reason is not None:
            skipped.append(Skipped(length, multiple, reason))
            continue
        # Negative seeds are never trained on.
        examples = [example(task, length, -1 - settings.seed, index) for index in range(settings.documents)]
        measured[str(length)] = _answered(subject, examples, multiple, f"{task} T={length}")
    return Measurement(Result(task, measured, skipped, train_length), {"bos": subject.bos is not None})


def notes(result: Result) -> list[str]:
    """What was left out, and why."""
    left = [entry for entry in result.skipped if entry.length is not None]
    return [f"{entry.multiple}x, {entry.length} tokens, left out: {entry.reason}" for entry in left]


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    if result.task is None:
        return {"skipped": result.skipped[0].reason}
    return {
        "task": result.task,
        **{f"{entry.multiple}x": entry.accuracy for entry in result.lengths.values()},
    }


def numbers(result: Result) -> list[Number]:
    """Accuracy at each length, for the report."""
    return [
        Number(
            f"{result.task} at {entry.multiple}×",
            entry.accuracy,
            "accuracy",
            "higher",
            parts={str(number): share for number, share in enumerate(entry.by_document or [])},
            error=entry.stderr,
        )
        for entry in result.lengths.values()
    ]


def plots(result: Result) -> list[Plot]:
    """Accuracy by length, for the report."""
    if result.train_length is None or not result.lengths:
        return []
    lengths, entries = [int(length) for length in result.lengths], result.lengths.values()
    lines = [
        Line(lengths, [entry.accuracy for entry in entries]),
        Line(lengths, [entry.chance for entry in entries]),
    ]
    caption = "Share of right answers, given the true earlier ones. Dashed: what naming a symbol at random would get."
    mark = (result.train_length, "longest in training")
    return [
        Plot(f"Task {result.task}", caption, "symbols", "accuracy", lines, log_x=2, ticks=True, mark=mark)
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


def _answered(subject: Subject, examples: list[Example], multiple: int, what: str) -> AtLength:
    """Score the answers of documents that have them in the same places."""
    begin = [] if subject.bos is None else [subject.bos]
    rows = [begin + subject.encode(one.text) for one in examples]
    if any(len(row) != len(begin) + len(one.text) for row, one in zip(rows, examples, strict=True)):
        raise ModelError(f"the tokenizer of {subject.name} does not make each symbol a token")
    tokens = torch.tensor(rows)
    places = torch.tensor(examples[0].answers) + len(begin)
    correct, nats = [], []
    for batch in progress(tokens.split(subject.batch(tokens.shape[1])), f"{subject.name} {what}"):
        wanted = batch[:, places]
        at = (torch.arange(len(batch)).repeat_interleave(len(places)), (places - 1).repeat(len(batch)))
        logits = subject.logits(batch[:, :-1], at).unflatten(0, wanted.shape).cpu()
        correct.append(logits.argmax(-1) == wanted)
        nats.append(-logits.double().log_softmax(-1).gather(-1, wanted[..., None]))
    right = torch.cat(correct).double()
    by_document = right.mean(-1)
    return AtLength(
        multiple=multiple,
        documents=len(examples),
        answers=right.numel(),
        accuracy=float(right.mean()),
        stderr=standard_error(by_document.tolist()),
        exact=float((by_document == 1).double().mean()),
        loss=float(torch.cat(nats).mean()),
        chance=chance(examples),
        by_document=by_document.tolist(),
    )


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    notes=notes,
    columns=lambda runs: columns_of(runs, numbers, "Synthetic"),
    figures=lambda runs: overlaid(runs, plots),
)
