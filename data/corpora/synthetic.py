"""Tasks made of symbols that ask for something seen before: no download, and as long as one likes.

A symbol is a character. What stands behind the `?` is asked for, and only that is learned; here it is in capitals:

    copy        x y z ? X Y Z               all of it again (Jelassi et al., arXiv 2402.01032)
    induction   x y z w ? z W x Y           in pieces of two, in another order: what followed this symbol (after the
                                            induction head task of Fu et al., arXiv 2212.14052)
    maximum     C x A y F z B w ? Z         what stands behind the greatest letter, which stands there once (as in
                                            Veličković et al., arXiv 2410.01104)
    passkey     a b # k e y s a b c ? K E Y S       a key of four letters in filler that repeats (after Mohtashami and
                                            Jaggi, arXiv 2305.16300; the key is in capitals both times)

The first two draw from 512 symbols without repetition, so that one earlier symbol decides each answer at any
length; the others from 26 letters. A document is a function of task, size, seed and index alone, whatever the machine.

Training documents are short more often than long, and those of induction come in pieces of two symbols up to all: long
pieces teach to go on copying, and from there finding where a piece begins is a small step. With pieces of two alone, or
with a loss on the symbols that are given, a small model is still naming any symbol of the context after 1500 steps.

One task asks for nothing most of the time, and there all symbols are learned:

    trigger     a b b a b ! B           which of two letters came more often, the first where both are equal

Nothing foretells the letters before the `!`, so a head has nothing to attend to there: its output should be the same
whatever they are. A row of weights that sums to one can be silent only by attending to a token without content, the
first one: a sink (after the trigger-conditional task of arXiv 2603.11487). Its documents are all as long as asked.
"""

import itertools
import math
import random
import string
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from common.errors import nearest
from common.hashing import json_hash
from common.ranges import ranged
from data.corpora.base import Corpus, Document
from data.corpora.reading import Hashes, content_hashes
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig

CONTENT, KEYS = string.ascii_lowercase, string.ascii_uppercase
SYMBOLS = "".join(map(chr, range(0xC0, 0x2C0)))
"""512 letters that are not ASCII."""
PASSKEY = 4
SHORTEST = 12
"""Symbols of the shortest document."""
ASKED = "?"
TRIGGER, LETTERS = "!", CONTENT[:2]


@dataclass(frozen=True)
class Example:
    """One document of a task.

    Attributes:
        text: its symbols.
        answers: which of them, counted from 0, follow from those before; the others are given, or chance.
        choices: the symbols that an answer may be.
    """

    text: str
    answers: tuple[int, ...]
    choices: str = SYMBOLS


@dataclass(frozen=True)
class Task:
    """One task, and how it is taught.

    Attributes:
        make: a document of so many symbols.
        teach: a training document of at most so many; None: one that `make` makes, the logarithm of its size uniform.
        answers_after: what ends the part that is given and not learned; None: all is learned.
    """

    make: Callable[[random.Random, int], Example]
    teach: Callable[[random.Random, int], Example] | None = None
    answers_after: str | None = ASKED


def example(task: str, size: int, seed: int, index: int) -> Example:
    """Document `index` of a task: of `size` symbols, or up to two fewer where the task comes in pairs.

    All of one size have their answers in the same places.

    Raises:
        DataError: unknown task, or a size below 12.
    """
    _check(task, size)
    return TASKS[task].make(random.Random(f"{task} {size} {seed} {index}"), size)


def lesson(task: str, longest: int, seed: int, index: int) -> Example:
    """Training document `index` of a task, of at most `longest` symbols.

    Raises:
        DataError: unknown task, or `longest` below 12.
    """
    _check(task, longest)
    chance, teach = random.Random(f"lesson {task} {longest} {seed} {index}"), TASKS[task].teach
    if teach is not None:
        return teach(chance, longest)
    return example(task, _log_uniform(chance, SHORTEST, longest), seed, index)


def _check(task: str, size: int) -> None:
    if task not in TASKS:
        raise DataError(f"unknown task {task!r}{nearest(task, TASKS)}")
    if size < SHORTEST:
        raise DataError(f"a document of a task has at least {SHORTEST} symbols, got {size}")


class Synthetic(Corpus):
    """Training documents of one task, of up to `task_length` symbols."""

    answers_after: str | None = ASKED  # of most tasks; each says its own

    @dataclass
    class Options:
        """Keys of `data`.

        Attributes:
            task: synthetic: "copy", "induction", "maximum", "passkey" or "trigger".
            task_length: synthetic: symbols of the longest documents.
        """

        task: str | None = None
        task_length: int = ranged(64, 1, 2**20)

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        if config.task not in TASKS:
            raise DataError(f"corpus 'synthetic' needs task, one of {', '.join(TASKS)}; got {config.task!r}")
        if config.task_length < SHORTEST:
            raise DataError(f"task_length is {config.task_length}; it must be at least {SHORTEST}")
        if config.max_documents is None:
            raise DataError("corpus 'synthetic' has no end; say how much of it with max_documents")
        if config.seed < 0:
            raise DataError(f"seed is {config.seed}; negative ones are kept for evaluation")
        if config.tokenizer.path is None and config.tokenizer.kind != "char":
            raise DataError("corpus 'synthetic' needs tokenizer.kind=char, which makes each symbol a token")
        self.task = config.task
        self.answers_after = TASKS[self.task].answers_after

    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """The options, and a few documents, which change whenever the way they are made does."""
        texts = [document.text for document in itertools.islice(self.documents(), 8)]
        options = {option: getattr(self.config, option) for option in sorted(self.options | {"seed"})}
        return {"options": options, "documents": json_hash(texts)}

    def documents(self) -> Iterator[Document]:
        """Documents without end."""
        for index in itertools.count():
            yield Document(lesson(self.task, self.config.task_length, self.config.seed, index).text)


def _copy(chance: random.Random, size: int) -> Example:
    half = _distinct(chance, (size - 1) // 2)
    return _asked(half, half, range(len(half)))


def _induction(chance: random.Random, size: int, piece: int = 2) -> Example:
    symbols = _distinct(chance, (size - 1) // 2)
    piece = min(piece, len(symbols))
    pieces = [symbols[start : start + piece] for start in range(0, len(symbols) - piece + 1, piece)]
    chance.shuffle(pieces)
    followers = (place for place in range(piece * len(pieces)) if place % piece)
    return _asked(symbols, "".join(pieces), followers)


def _induction_in_pieces(chance: random.Random, longest: int) -> Example:
    size = _log_uniform(chance, SHORTEST, longest)
    return _induction(chance, size, piece=_log_uniform(chance, 2, size // 2))


def _maximum(chance: random.Random, size: int) -> Example:
    count = (size - 2) // 2
    greatest = chance.randrange(1, len(KEYS))
    ranks = [greatest, *(chance.randrange(greatest) for _ in range(count - 1))]
    chance.shuffle(ranks)
    items = [(KEYS[rank], chance.choice(CONTENT)) for rank in ranks]
    given = "".join(key + content for key, content in items)
    return _asked(given, max(items)[1], range(1), CONTENT)


def _passkey(chance: random.Random, size: int) -> Example:
    key = "".join(chance.choices(KEYS, k=PASSKEY))
    filler = size - 2 * (1 + len(key))
    before = chance.randint(0, filler)
    given = _filler(before) + "#" + key + _filler(filler - before)
    return _asked(given, key, range(PASSKEY), KEYS)


def _trigger(chance: random.Random, size: int) -> Example:
    letters = "".join(chance.choices(LETTERS, k=size - 2))
    most = max(LETTERS, key=letters.count)
    return Example(letters + TRIGGER + most.upper(), (size - 1,), LETTERS.upper())


def _asked(given: str, wanted: str, answers: Iterable[int], choices: str = SYMBOLS) -> Example:
    """What is given, and what is wanted, of which `answers` follow."""
    begin = len(given) + len(ASKED)
    return Example(given + ASKED + wanted, tuple(begin + place for place in answers), choices)


def _distinct(chance: random.Random, count: int) -> str:
    """Symbols of which none comes again before all have come."""
    rounds = (chance.sample(SYMBOLS, len(SYMBOLS)) for _ in range(-(-count // len(SYMBOLS))))
    return "".join(symbol for symbols in rounds for symbol in symbols)[:count]


def _log_uniform(chance: random.Random, least: int, most: int) -> int:
    return round(math.exp(chance.uniform(math.log(least), math.log(most))))


def _filler(size: int) -> str:
    return (CONTENT * (size // len(CONTENT) + 1))[:size]


TASKS = {
    "copy": Task(_copy),
    "induction": Task(_induction, teach=_induction_in_pieces),
    "maximum": Task(_maximum),
    "passkey": Task(_passkey),
    "trigger": Task(_trigger, teach=_trigger, answers_after=None),
}
