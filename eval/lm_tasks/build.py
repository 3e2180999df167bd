"""Tasks from any text: lm-eval calls these functions for the documents of the YAML files beside this one.

Every function gets the path of a JSON file with a list of texts, the number of samples wanted and the number of
words of a context, and draws passages with a fixed seed of its own, so that the same text always gives the same
task. `document` is the number of the text that a passage comes from, of two passages the first: answers of one text are
not independent.
"""

import json
import random
import re
from collections.abc import Iterator
from itertools import accumulate
from pathlib import Path
from typing import Any

from datasets import Dataset

WORD = re.compile(r"\S+")
CHOICES = 4


class Passages:
    """Random places in a list of texts, seen as words that remember the whitespace around them."""

    def __init__(self, texts: str, seed: str) -> None:
        documents = json.loads(Path(texts).read_text(encoding="utf-8"))
        self.documents = [(text, [match.span() for match in WORD.finditer(text)]) for text in documents]
        self.cumulative = list(accumulate(len(words) for _, words in self.documents))
        self.longest = max((len(words) for _, words in self.documents), default=0)
        self.random = random.Random(seed)

    def cut(self, *sizes: int) -> tuple[int, tuple[str, ...]] | None:
        """Number of a random document, and consecutive parts of so many words each; None where it is too short.

        Every part but the first begins with the whitespace before it.
        """
        number = self.random.choices(range(len(self.documents)), cum_weights=self.cumulative)[0]
        text, words = self.documents[number]
        if len(words) < sum(sizes):
            return None
        at = self.random.randrange(len(words) - sum(sizes) + 1)
        parts, start = [], words[at][0]
        for size in sizes:
            at += size
            parts.append(text[start : words[at - 1][1]])
            start = words[at - 1][1]
        return number, tuple(parts)

    def draw(self, *sizes: int, tries: int) -> Iterator[tuple[int, tuple[str, ...]]]:
        """Up to `tries` different passages, each with the number of its document."""
        seen = set()
        for _ in range(tries if self.longest >= sum(sizes) else 0):
            found = self.cut(*sizes)
            if found is not None and found[1] not in seen:
                seen.add(found[1])
                yield found


def cloze(texts: str, samples: int, words: int, **_: Any) -> dict[str, Dataset]:
    """Predict the last word of a passage, a word of at least four letters that the passage has used before."""
    documents = []
    for number, (context, last) in Passages(texts, "cloze").draw(words, 1, tries=200 * samples):
        letters = re.findall(r"[^\W\d_]+", last)
        if len(letters) == 1 and len(letters[0]) >= 4 and letters[0] in re.findall(r"[^\W\d_]+", context):
            word = last[: last.index(letters[0]) + len(letters[0])]
            documents.append({"context": context, "word": word, "document": number})
        if len(documents) == samples:
            break
    return _test(documents)


def continuation(texts: str, samples: int, words: int, **_: Any) -> dict[str, Dataset]:
    """Choose how a passage goes on, among its own ending and those of three others.

    Four passages share their four endings in one order, so that each is right once: whatever prefers an ending, or a
    place in the list, without looking at the passage is right in exactly one of four.
    """
    passages = Passages(texts, "continuation")
    documents: list[dict[str, Any]] = []
    waiting: dict[str, tuple[int, str]] = {}
    for number, (context, ending) in passages.draw(words // 2, words // 4, tries=4 * samples + CHOICES):
        waiting[ending] = number, context
        if len(waiting) < CHOICES:
            continue
        endings, contexts = list(waiting), list(waiting.values())
        documents += [
            {"context": before, "endings": endings, "answer": right, "document": document}
            for right, (document, before) in enumerate(contexts)
        ]
        waiting = {}
        if len(documents) > samples - CHOICES:
            break
    return _test(documents)


def order(texts: str, samples: int, words: int, **_: Any) -> dict[str, Dataset]:
    """Tell the end of a passage from the same with two neighbouring words exchanged.

    Only words behind a single space change places, and they take the space along: tokenizers then see the same tokens
    in another order, and a model that knows nothing is right half of the time.
    """
    passages = Passages(texts, "order")
    documents = []
    for number, (context, ending) in passages.draw(words // 2, words // 4, tries=4 * samples):
        # Odd parts are such words; an empty part between two of them makes them neighbours.
        parts = re.split(r"((?<=\S) \S+)", ending)
        pairs = [at for at in range(1, len(parts) - 2, 2) if not parts[at + 1] and parts[at] != parts[at + 2]]
        if not pairs:
            continue
        at = passages.random.choice(pairs)
        parts[at], parts[at + 2] = parts[at + 2], parts[at]
        endings = [ending, "".join(parts)]
        passages.random.shuffle(endings)
        right = endings.index(ending)
        documents.append({"context": context, "endings": endings, "answer": right, "document": number})
        if len(documents) == samples:
            break
    return _test(documents)


def substitution(texts: str, samples: int, words: int, **_: Any) -> dict[str, Dataset]:
    """Tell two passages, one below the other, from the same with a word of each exchanged.

    Both words stand between single spaces and in small letters: tokenizers then see the same tokens at other places,
    and whatever prefers one word over the other without looking at the passages has nothing to choose by. What follows
    the words is scored along with them.
    """
    passages = Passages(texts, "substitution")
    documents: list[dict[str, Any]] = []
    waiting: tuple[int, str, str, str] | None = None
    for number, (context, ending) in passages.draw(words // 8, max(2, words // 12), tries=40 * samples):
        found = re.match(r" [a-z]{3,}(?= )", ending)
        if found is None or (waiting is not None and waiting[2] == found[0]):
            continue
        here = (number, context, found[0], ending[found.end() :])
        if waiting is None:
            waiting = here
            continue
        (number, above, first, middle), (below, second, last) = waiting, here[1:]
        pairs = ((first, second), (second, first))
        endings = [f"{one}{middle}\n\n{below}{other}{last}" for one, other in pairs]
        true = endings[0]
        passages.random.shuffle(endings)
        right = endings.index(true)
        documents.append({"context": above, "endings": endings, "answer": right, "document": number})
        waiting = None
        if len(documents) == samples:
            break
    return _test(documents)


def rolling(texts: str, samples: int, words: int, **_: Any) -> dict[str, Dataset]:
    """Disjoint passages whose whole text is scored, evenly spread over the texts."""
    passages = []
    for number, (text, spans) in enumerate(Passages(texts, "rolling").documents):
        for at in range(0, len(spans), 4 * words):
            part = spans[at : at + 4 * words]
            passages.append({"text": text[part[0][0] : part[-1][1]], "document": number})
    count = min(samples, len(passages))
    return _test([passages[index * len(passages) // count] for index in range(count)])


def cloze_scores(_: dict[str, Any], results: list[tuple[float, bool]]) -> dict[str, float]:
    """The metrics of one answer; perplexity is exp of minus the mean log-likelihood, which has a standard error."""
    ((likelihood, greedy),) = results
    return {"log_likelihood": likelihood, "perplexity": likelihood, "acc": float(greedy)}


def _test(documents: list[dict[str, Any]]) -> dict[str, Dataset]:
    if not documents:
        raise ValueError("the text is too short or too plain for this task")
    return {"test": Dataset.from_list(documents)}
