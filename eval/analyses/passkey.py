"""Passkey retrieval: a number hidden in text that repeats, asked for at the end.

The protocol published with softpick (arXiv 2504.20966, `passkey_retrieval.py` in its training code); the sentences are
those of Mohtashami & Jaggi (arXiv 2305.16300). Five lines: the instruction, filler, the line with the key, filler, the
question. G characters of filler are split where a draw from 0..G-1 says, the key is drawn from 1..49999, both from
numpy's legacy generator seeded with (number of the test) + G. The model decodes greedily as many tokens as the key
has, and all must match. The published lengths of 1 to 5 thousand tokens are G = 3072, 7168, 11264, 15360 and 18432
(1024 times the whole part of 3.75 per thousand), which Llama-2's tokenizer makes 890 to 4986 tokens of; the script's
default is 10 tests.

Greedy decoding is computed in one pass over prompt and key: it writes the key exactly when every token of the key is
the most likely one after those before it. The key follows the prompt behind a space, as a tokenizer sees it in text.

    python -m eval passkey RUN --garbage 3072,7168,11264,15360,18432 --tests 200        as published

A model of a few million parameters does not read its instructions; the task of the same name in `synthetic` is one that
it can learn.

Results: `Result` below.
"""

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np
import torch

from eval.analysis import Analysis, Measurement
from eval.display import Number, columns_of
from eval.intervals import wilson
from eval.options import option
from eval.subjects.base import Subject
from eval.terminal import progress
from eval.windows import obstacle
from models import ModelError

INSTRUCTION = (
    "There is an important info hidden inside a lot of irrelevant text. Find it and memorize them. "
    "I will quiz you about the important information there."
)
FILLER = "The grass is green. The sky is blue. The sun is yellow. Here we go. There and back again."
LINE = "The pass key is {key}. Remember it. {key} is the pass key."
QUESTION = "What is the pass key? The pass key is"


@dataclass(frozen=True)
class Settings:
    """Options of the analysis."""

    garbage: tuple[int, ...] = option((256, 1024, 3072, 7168), "filler, one length each", unit="characters")
    tests: int = option(10, "prompts at every length")

    def __post_init__(self) -> None:
        if min(self.garbage, default=0) < 1 or self.tests < 1:
            raise ModelError("passkey needs garbage and tests of at least 1")


@dataclass(frozen=True)
class AtLength:
    """Answers behind so much filler.

    Attributes:
        garbage: characters of filler.
        tokens: mean length of the prompts, the beginning-of-document token included.
        tests: prompts.
        accuracy: share of keys that were written, from 0 to 1.
        interval: its 95 % interval by Wilson, which says what 0 of 10 leaves open, too.
        loss: in nats per token of the key.
        answers: of each test, the same for all models: 1 is right.
    """

    garbage: int
    tokens: int
    tests: int
    accuracy: float
    interval: list[float]
    loss: float
    answers: list[int] | None = None


@dataclass(frozen=True)
class Skipped:
    """Filler that makes prompts too long for the model."""

    garbage: int
    length: int
    reason: str


@dataclass(frozen=True)
class Result:
    """The answers by characters of filler."""

    lengths: Mapping[str, AtLength]
    skipped: list[Skipped]


def run(subject: Subject, settings: Settings) -> Measurement[Result]:
    """Measure one subject."""
    measured, skipped = {}, []
    for garbage in sorted(set(settings.garbage)):
        pairs = [_encoded(subject, *prompt(garbage, test)) for test in range(settings.tests)]
        # The last token of a key is only predicted.
        longest = max(len(question) + len(key) - 1 for question, key in pairs)
        reason = obstacle(subject, longest)
        if reason is not None:
            skipped.append(Skipped(garbage, longest, reason))
            continue
        what = f"passkey {subject.name} G={garbage}"
        answers = [_answer(subject, question, key) for question, key in progress(pairs, what)]
        share = wilson(sum(right for right, _ in answers), len(answers))
        measured[str(garbage)] = AtLength(
            garbage=garbage,
            tokens=round(sum(len(question) for question, _ in pairs) / len(pairs)),
            tests=len(answers),
            accuracy=share.mean,
            interval=[end for end in (share.low, share.high) if end is not None],
            loss=sum(nats for _, nats in answers) / len(answers),
            answers=[int(right) for right, _ in answers],
        )
    return Measurement(Result(measured, skipped), {"bos": subject.bos is not None})


def notes(result: Result) -> list[str]:
    """What was left out, and why."""
    return [
        f"{entry.garbage} characters of filler left out, prompts of {entry.length} tokens: {entry.reason}"
        for entry in result.skipped
    ]


def row(result: Result) -> dict[str, object]:
    """One line of the comparison table."""
    return {f"{entry.tokens} tokens": _with_ends(entry) for entry in result.lengths.values()}


def numbers(result: Result) -> list[Number]:
    """Accuracy at each length, for the report."""
    return [
        Number(
            f"passkey in {garbage}",
            entry.accuracy,
            "characters",
            "higher",
            parts={str(test): float(right) for test, right in enumerate(entry.answers or [])},
            interval=entry.interval,
        )
        for garbage, entry in result.lengths.items()
    ]


def prompt(garbage: int, test: int) -> tuple[str, str]:
    """The text of a test with so many characters of filler, and the key it asks for."""
    chance = np.random.RandomState(test + garbage)
    before = int(chance.randint(0, garbage))
    key = str(chance.randint(1, 50_000))
    filler = " ".join([FILLER] * (garbage // len(FILLER) + 1))
    lines = [INSTRUCTION, filler[:before], LINE.format(key=key), filler[: garbage - before], QUESTION]
    return "\n".join(lines), key


def _with_ends(entry: AtLength) -> str:
    low, high = entry.interval
    return f"{entry.accuracy:.2f} [{low:.2f}, {high:.2f}]"


def _encoded(subject: Subject, question: str, key: str) -> tuple[list[int], list[int]]:
    """Tokens of the prompt and of the key behind it."""
    begin = [] if subject.bos is None else [subject.bos]
    before = subject.encode(question)
    return begin + before, subject.encode(f"{question} {key}")[len(before) :]


def _answer(subject: Subject, question: list[int], key: list[int]) -> tuple[bool, float]:
    """Whether greedy decoding writes the key, and the loss of its tokens."""
    tokens = torch.tensor([question + key])
    places = torch.arange(len(question) - 1, tokens.shape[1] - 1)
    logits = subject.logits(tokens[:, :-1], (torch.zeros_like(places), places)).cpu()
    wanted = tokens[0, len(question) :]
    nats = -logits.double().log_softmax(-1).gather(-1, wanted[:, None])
    return bool((logits.argmax(-1) == wanted).all()), float(nats.mean())


ANALYSIS = Analysis(
    settings=Settings,
    result=Result,
    run=run,
    row=row,
    notes=notes,
    columns=lambda runs: columns_of(runs, numbers, "Passkey"),
)
