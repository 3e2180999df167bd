"""Where documents come from: one file per kind of source, its name the one that a config uses.

The files are found by listing this folder. Each defines a `Corpus`, whose `Options` become keys of `data`.
"""

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from common.errors import nearest
from common.listing import classes, options
from data.corpora.base import Corpus, Document
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig

CORPORA: dict[str, type[Corpus]] = classes(
    __name__,
    Corpus,  # type: ignore[type-abstract]
    without={"files", "package", "reading"},
)

OPTIONS = options(CORPORA.values())
"""Their options: dataclasses that the config of the data extends."""

__all__ = ["CORPORA", "Corpus", "Document", "documents", "open_corpus"]


def open_corpus(config: "DataConfig") -> Corpus:
    """The corpus that a config names. DataError: unknown name, an option it does not use, or one it needs."""
    if config.corpus not in CORPORA:
        raise DataError(f"unknown corpus {config.corpus!r}{nearest(config.corpus, CORPORA)}")
    kind = CORPORA[config.corpus]
    defaults = type(config)()
    for option in sorted({option for other in CORPORA.values() for option in other.options} - kind.options):
        value = getattr(config, option)
        if value != getattr(defaults, option):
            users = ", ".join(sorted(name for name, other in CORPORA.items() if option in other.options))
            raise DataError(f"corpus {config.corpus!r} does not use {option}={value!r} (used by: {users})")
    if config.max_documents is not None and config.max_documents < 2:
        raise DataError(
            f"max_documents is {config.max_documents}; to train on some and hold out some takes 2"
        )
    return kind(config)


def documents(corpus: Corpus) -> Iterator[Document]:
    """The documents of a corpus in its order, at most `max_documents`; those without text do not count."""
    with_text = (document for document in corpus.documents() if document.text.strip())
    return islice(with_text, corpus.config.max_documents)
