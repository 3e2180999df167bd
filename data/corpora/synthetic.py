"""Tasks made of symbols that ask for something seen before: no download, and as long as one likes.

A symbol is a character. The answers are in capitals here:

    copy        x y z = X Y Z               the first half again (Jelassi et al., arXiv 2402.01032)
    induction   x y z w v ? y Z v W         what followed this symbol (the induction head task of Fu et al.,
                                            arXiv 2212.14052, asked for every second symbol or so, in random order)
    maximum     C x A y F z B w ? Z         what stands behind the greatest letter, which stands there once (as in
                                            Veličković et al., arXiv 2410.01104)
    passkey     a b # k e y s a b c # K E Y S       a key of four letters in filler that repeats (after Mohtashami and
                                            Jaggi, arXiv 2305.16300; the key is in capitals both times)

The first two draw from 512 symbols without repetition, so that one earlier symbol decides each answer at any
length; the others from 26 letters. A document is a function of task, size, seed and index alone, whatever the machine.
"""

import itertools
import random
import string
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from data.cache import digest
from data.config import DataConfig
from data.corpora.base import Corpus, Document
from data.errors import DataError, nearest

CONTENT, KEYS = string.ascii_lowercase, string.ascii_uppercase
SYMBOLS = "".join(map(chr, range(0xC0, 0x2C0)))
"""512 letters that are not ASCII."""
PASSKEY = 4
LEAST_LENGTH = 64


@dataclass(frozen=True)
class Example:
    """One document of a task.

    Attributes:
        text: its symbols.
        answers: which of them, counted from 0, follow from those before; the others are chance.
        choices: the symbols that an answer may be.
    """

    text: str
    answers: tuple[int, ...]
    choices: str = SYMBOLS


def example(task: str, size: int, seed: int, index: int) -> Example:
    """Document `index` of a task: of `size` symbols, or one fewer where the task comes in pairs.

    Raises:
        DataError: unknown task, or a size below 16.
    """
    if task not in TASKS:
        raise DataError(f"unknown task {task!r}{nearest(task, TASKS)}")
    if size < LEAST_LENGTH // 4:
        raise DataError(f"a document of a task has at least {LEAST_LENGTH // 4} symbols, got {size}")
    return TASKS[task](random.Random(f"{task} {size} {seed} {index}"), size)


class Synthetic(Corpus):
    """Documents of one task, of all sizes from a quarter of `task_length` to the whole of it."""

    options = frozenset({"task", "task_length"})

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        if config.task not in TASKS:
            raise DataError(f"corpus 'synthetic' needs task, one of {', '.join(TASKS)}; got {config.task!r}")
        if config.task_length < LEAST_LENGTH:
            raise DataError(f"task_length is {config.task_length}; it must be at least {LEAST_LENGTH}")
        if config.max_documents is None:
            raise DataError("corpus 'synthetic' has no end; say how much of it with max_documents")
        if config.seed < 0:
            raise DataError(f"seed is {config.seed}; negative ones are kept for evaluation")
        if config.tokenizer.path is None and config.tokenizer.kind != "char":
            raise DataError("corpus 'synthetic' needs tokenizer.kind=char, which makes each symbol a token")
        self.task = config.task

    def identity(self) -> dict[str, Any]:
        """The options, and a few documents, which change whenever the way they are made does."""
        texts = [document.text for document in itertools.islice(self.documents(), 8)]
        options = {option: getattr(self.config, option) for option in sorted(self.options | {"seed"})}
        return {"options": options, "documents": digest(texts)}

    def documents(self) -> Iterator[Document]:
        """Documents without end."""
        longest, seed = self.config.task_length, self.config.seed
        for index in itertools.count():
            size = random.Random(f"size {seed} {index}").randint(longest // 4, longest)
            yield Document(example(self.task, size, seed, index).text)


def _copy(chance: random.Random, size: int) -> Example:
    half = "".join(_distinct(chance, (size - 1) // 2))
    text = f"{half}={half}"
    return Example(text, tuple(range(len(half) + 1, len(text))))


def _induction(chance: random.Random, size: int) -> Example:
    questions = (size - 2) // 3
    symbols = _distinct(chance, size - 1 - 2 * questions)
    asked = chance.sample(range(len(symbols) - 1), questions)
    text = "".join(symbols) + "?" + "".join(symbols[place] + symbols[place + 1] for place in asked)
    return Example(text, tuple(range(len(symbols) + 2, len(text), 2)))


def _maximum(chance: random.Random, size: int) -> Example:
    count = (size - 2) // 2
    greatest = chance.randrange(1, len(KEYS))
    ranks = [greatest, *(chance.randrange(greatest) for _ in range(count - 1))]
    chance.shuffle(ranks)
    items = [(KEYS[rank], chance.choice(CONTENT)) for rank in ranks]
    question = "".join(key + content for key, content in items) + "?"
    return Example(question + max(items)[1], (len(question),), CONTENT)


def _passkey(chance: random.Random, size: int) -> Example:
    key = "#" + "".join(chance.choices(KEYS, k=PASSKEY))
    filler = size - 2 * len(key)
    before = chance.randint(0, filler)
    text = _filler(before) + key + _filler(filler - before) + key
    return Example(text, tuple(range(size - PASSKEY, size)), KEYS)


def _distinct(chance: random.Random, count: int) -> list[str]:
    """Symbols of which none comes again before all have come."""
    rounds = (chance.sample(SYMBOLS, len(SYMBOLS)) for _ in range(-(-count // len(SYMBOLS))))
    return [symbol for symbols in rounds for symbol in symbols][:count]


def _filler(size: int) -> str:
    return (CONTENT * (size // len(CONTENT) + 1))[:size]


TASKS: dict[str, Callable[[random.Random, int], Example]] = {
    "copy": _copy,
    "induction": _induction,
    "maximum": _maximum,
    "passkey": _passkey,
}
