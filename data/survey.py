"""A corpus is read once to learn which documents are kept and on which side; its text is not copied.

What is noted of each document meanwhile lies on disk, in parts: 108 bytes, removed in the end. What stays are a byte
(TRAIN, VALID or DROPPED) and 8 bytes of its digest, by which it is known when it is read again to be encoded.
"""

import hashlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import write_json
from data import parts as part
from data.batching import in_batches
from data.corpora import Corpus, documents
from data.errors import DataError
from data.parts import Parts
from data.progress import Progress
from data.split import DIGEST, chance, duplicates, hold_out, split_text
from data.words import cut
from data.workers import in_order

TRAIN, VALID, DROPPED = 0, 1, 2
SPLITS = ("train", "valid")
BATCH = 1 << 20
"""Characters of text that are handed to a worker at once."""
FACTS, SIDES, DIGESTS = "text.json", "sides.npy", "digests.npy"

Columns = dict[str, NDArray[Any]]


@dataclass(frozen=True)
class Digests:
    """What workers make of (text, group) of some documents."""

    seed: int

    def __call__(self, batch: list[tuple[str, str | None]]) -> Columns:
        """By name, [n, 4] digests of words and of text and chances, and [n] bytes."""
        words, texts, chances, sizes = [], [], [], []
        for text, group in batch:
            word, content = hash_of_words(text), text.encode()
            words.append(word.digest())
            texts.append(hashlib.sha256(content).digest())
            chances.append(chance(group or word.hexdigest(), self.seed))
            sizes.append(len(content))
        digests = {"words": words, "text": texts, "chance": chances}
        columns: Columns = {name: as_digests(found) for name, found in digests.items()}
        return columns | {"bytes": np.array(sizes, dtype=np.int64)}


def hash_of_words(text: str) -> "hashlib._Hash":
    """The sha256 of the words with one space between them.

    Texts that differ in white space alone count as one: either would give the other away.
    """
    found = hashlib.sha256()
    gap = ""
    for piece in cut(text):
        if words := " ".join(piece.split()):
            found.update(f"{gap}{words}".encode())
            gap = " "
    return found


def as_digests(found: list[bytes]) -> NDArray[np.uint64]:
    """Sha256 digests as [n, 4] integers, which are ordered as they are."""
    return np.frombuffer(b"".join(found), dtype=DIGEST.base).reshape(-1, *DIGEST.shape).astype(np.uint64)


def survey(folder: Path, corpus: Corpus) -> None:
    """Write what is to be known of a corpus into a folder, or go on where another did who was stopped.

    DataError: no text, or too little of it to hold some out.
    """
    if not (folder / FACTS).exists():
        parts = Parts(folder / "parts")
        strata = _read(parts, corpus)
        _decide(folder, parts, strata, corpus)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _read(parts: Parts, corpus: Corpus) -> list[str]:
    """Note the columns of all documents that have not been read yet; the names of all strata."""
    done = parts.done()
    strata = {name: number for number, name in enumerate(done[-1]["strata"] if done else ())}
    number, begun = len(done), sum(facts["documents"] for facts in done)
    found: list[Columns] = []
    size = documents_read = 0

    def batches() -> Iterator[tuple[list[int], list[tuple[str, str | None]]]]:
        remaining = islice(documents(corpus), begun, None)
        for batch in in_batches(remaining, lambda document: len(document.text), BATCH):
            places = [strata.setdefault(document.stratum, len(strata)) for document in batch]
            yield places, [(document.text, document.group) for document in batch]

    def commit() -> None:
        files = []
        for name in found[0]:
            files.append(parts.folder / _column(number, name))
            np.save(files[-1], np.concatenate([columns[name] for columns in found]))
        parts.commit(number, files, documents=documents_read, bytes=size, strata=list(strata))

    with Progress("reading", corpus.text_bytes(), sum(facts["bytes"] for facts in done)) as progress:
        for places, columns in in_order(Digests(corpus.config.seed), batches()):
            found.append(columns | {"stratum": np.array(places, dtype=np.int32)})
            more = int(columns["bytes"].sum())
            progress.add(more)
            size, documents_read = size + more, documents_read + len(places)
            if size >= part.SIZE or documents_read >= part.DOCUMENTS:
                commit()
                number, size, documents_read, found = number + 1, 0, 0, []
        if found:
            commit()
    return list(strata)


def _decide(folder: Path, parts: Parts, strata: list[str], corpus: Corpus) -> None:
    """From the columns of all parts, the side of every document and the facts of both splits."""
    count = len(parts.done())

    def column(name: str) -> list[NDArray[Any]]:
        return [np.load(parts.folder / _column(number, name), mmap_mode="r") for number in range(count)]

    if not count:
        raise DataError(f"corpus {corpus.config.corpus!r} holds no text")
    dropped = duplicates(column("words"))
    n_dropped = int(dropped.sum())
    total = {split: hashlib.sha256() for split in SPLITS}
    n_documents, n_bytes = dict.fromkeys(SPLITS, 0), dict.fromkeys(SPLITS, 0)

    def note(split: str, documents: int, size: int, digests: bytes) -> None:
        n_documents[split] += documents
        n_bytes[split] += size
        total[split].update(digests)

    if cut := len(dropped) - n_dropped == 1:
        if n_dropped:
            raise DataError(
                f"the corpus is a single document: {n_dropped} more have the same words (white space does not count)"
            )
        sides = np.array([TRAIN], dtype=np.uint8)
        whole = next(documents(corpus)).text
        for split, text in zip(SPLITS, split_text(whole, corpus.config.held_out), strict=True):
            content = text.encode()
            note(split, 1, len(content), hashlib.sha256(content).digest())
    else:
        held = hold_out(column("chance"), column("stratum"), strata, ~dropped, corpus.config.held_out)
        sides = np.where(dropped, DROPPED, held).astype(np.uint8)
        begin = 0
        for digest, sizes in zip(column("text"), column("bytes"), strict=True):
            here = sides[begin : begin + len(sizes)]
            begin += len(sizes)
            for side, split in enumerate(SPLITS):
                chosen = here == side
                note(
                    split,
                    int(chosen.sum()),
                    int(sizes[chosen].sum()),
                    digest[chosen].astype(DIGEST.base).tobytes(),
                )
    np.save(folder / SIDES, sides)
    digests = np.lib.format.open_memmap(folder / DIGESTS, mode="w+", dtype=np.uint64, shape=sides.shape)
    np.concatenate([digest[:, 0] for digest in column("text")], out=digests)
    digests.flush()
    facts = {
        "fingerprints": {split: total[split].hexdigest() for split in SPLITS},
        "duplicates": n_dropped,
        "cut": cut,
        "documents": n_documents,
        "bytes": n_bytes,
    }
    write_json(folder / FACTS, facts)


def _column(number: int, name: str) -> str:
    return f"{number:05d}-{name}.npy"
