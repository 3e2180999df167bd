"""A source that lies elsewhere is fetched once: its texts, compressed, in the cache, from where they are read again."""

import gzip
import json
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from data import parts as part
from data.batching import in_batches
from data.cache import build_once
from data.corpora import Corpus, Document
from data.corpora.mix import Mix
from data.corpora.reading import Hashes, content_hashes, read_lines
from data.parts import Parts
from data.progress import Progress


class Fetched(Corpus):
    """The documents of a remote corpus that have text, from a folder of the cache."""

    def __init__(self, corpus: Corpus, folder: Path) -> None:
        super().__init__(corpus.config)
        self._corpus, self._folder = corpus, folder

    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """That of the corpus."""
        return self._corpus.identity(hashes)

    def documents(self) -> Iterator[Document]:
        """Its documents, in its order."""
        for file in sorted(self._folder.glob("*.jsonl.gz")):
            for line in read_lines(file):
                yield Document(json.loads(line))


def fetched(corpus: Corpus, root: Path) -> Corpus:
    """The corpus itself, or its copy in the cache where it lies elsewhere; what was fetched before a kill stays."""
    if isinstance(corpus, Mix):
        corpus.corpora = {name: fetched(one, root) for name, one in corpus.corpora.items()}
    if not corpus.remote:
        return corpus
    identity = {"content": corpus.identity(), "max_documents": corpus.config.max_documents}
    folder = build_once(root, "fetched", identity, lambda folder: _fetch(folder, corpus), resumable=True)
    return Fetched(corpus, folder)


def _fetch(folder: Path, corpus: Corpus) -> None:
    parts = Parts(folder)
    done = parts.done()
    read = done[-1]["read"] if done else 0
    with Progress("fetching", None, sum(facts["bytes"] for facts in done)) as progress:

        def texts() -> Iterator[str]:
            nonlocal read
            for document in corpus.documents_from(read):
                read += 1
                if document.text.strip():
                    progress.add(len(document.text))
                    yield document.text

        wanted = corpus.config.max_documents
        if wanted is not None:
            wanted -= sum(facts["documents"] for facts in done)
        for number, batch in enumerate(in_batches(islice(texts(), wanted), len, part.SIZE), len(done)):
            file = folder / f"{number:05d}.jsonl.gz"
            with gzip.open(file, "wt", compresslevel=1, encoding="utf-8") as lines:
                lines.writelines(f"{json.dumps(text)}\n" for text in batch)
            parts.commit(number, [file], read=read, documents=len(batch), bytes=sum(map(len, batch)))
