"""The documents of a corpus, without duplicates, and split into training and held-out ones."""

import hashlib
import json
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.cache import build_once
from data.config import DataConfig
from data.corpora import Corpus, documents
from data.errors import DataError
from data.known import known_hashes
from data.split import check, split_text
from data.survey import DIGESTS, DROPPED, FACTS, SIDES, SPLITS, survey


@dataclass(frozen=True)
class Kept:
    """A document that is kept: its place among all of the corpus, its text, its side, and the source that it is of."""

    place: int
    text: str
    split: str
    source: str


class SplitText:
    """What is known of the documents of both splits; the documents themselves are read where they lie."""

    def __init__(self, folder: Path, corpus: Corpus) -> None:
        facts = json.loads((folder / FACTS).read_bytes())
        self.fingerprints: dict[str, str] = facts["fingerprints"]
        """By split: hex sha256 over its documents."""
        self.duplicates: int = facts["duplicates"]
        """Documents that were dropped because another has the same words."""
        self.cut: bool = facts["cut"]
        """Whether the corpus is one text, of which the end is held out."""
        self.documents: dict[str, int] = facts["documents"]
        """By split: their number."""
        self.bytes: dict[str, int] = facts["bytes"]
        """By split: UTF-8 bytes of text."""
        self._folder, self._corpus = folder, corpus

    def kept(self, start: int = 0) -> Iterator[Kept]:
        """The kept documents from place `start` on, in the order of the corpus.

        DataError: a document is another than when the corpus was split.
        """
        place = start
        for document in islice(documents(self._corpus), start, None):
            digest = hashlib.sha256(document.text.encode()).digest()[:8]
            if place >= len(self._sides) or int.from_bytes(digest) != self._digests[place]:
                break
            side = self._sides[place]
            if self.cut:
                parts = split_text(document.text, self._corpus.config.held_out)
                for split, text in zip(SPLITS, parts, strict=True):
                    yield Kept(place, text, split, document.source)
            elif side != DROPPED:
                yield Kept(place, document.text, SPLITS[side], document.source)
            place += 1
        else:
            if place == len(self._sides):
                return
        raise DataError(
            f"corpus {self._corpus.config.corpus!r} changed while it was read (document {place + 1}); try again"
        )

    @cached_property
    def _sides(self) -> NDArray[np.uint8]:
        sides: NDArray[np.uint8] = np.load(self._folder / SIDES, mmap_mode="r")
        return sides

    @cached_property
    def _digests(self) -> NDArray[np.uint64]:
        digests: NDArray[np.uint64] = np.load(self._folder / DIGESTS, mmap_mode="r")
        return digests


def open_text(config: DataConfig, corpus: Corpus, root: Path) -> SplitText:
    """The documents a config asks for, found in the cache `root` or looked through. DataError: any mistake."""
    check(config.held_out)
    identity: dict[str, Any] = {
        "corpus": config.corpus,
        "content": corpus.identity(known_hashes(root)),
        "max_documents": config.max_documents,
        "held_out": config.held_out,
        "seed": config.seed,
    }
    folder = build_once(root, "text", identity, lambda folder: survey(folder, corpus), resumable=True)
    return SplitText(folder, corpus)
