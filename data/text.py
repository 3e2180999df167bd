"""The documents of a corpus on disk: without duplicates, and split into training and held-out ones."""

import hashlib
import json
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from data.cache import build_once
from data.config import DataConfig
from data.corpora import Corpus, documents, open_corpus
from data.errors import DataError
from data.split import check, hold_out, split_text

SPLITS = ("train", "valid")


class TextStore:
    """Documents of both splits, read from disk one at a time."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with (folder / "text.json").open(encoding="utf-8") as file:
            facts = json.load(file)
        self.fingerprints: dict[str, str] = facts["fingerprints"]
        """By split: hex sha256 over its documents."""
        self.duplicates: int = facts["duplicates"]
        """Documents that were dropped because another has the same words."""
        self.cut: bool = facts["cut"]
        """Whether the corpus is one text, of which the end is held out."""

    def documents(self, split: str) -> Iterator[str]:
        """The texts of a split, "train" or "valid", in the order of the corpus."""
        with (self.folder / "text.utf8").open("rb") as file:
            for begin, end in self._bounds[split].tolist():
                file.seek(begin)
                yield file.read(end - begin).decode()

    def count(self, split: str) -> int:
        """The number of documents of a split."""
        return len(self._bounds[split])

    def size(self, split: str) -> int:
        """The bytes of a split's documents."""
        return int((self._bounds[split][:, 1] - self._bounds[split][:, 0]).sum())

    @cached_property
    def _bounds(self) -> dict[str, NDArray[np.int64]]:
        """By split: [D, 2], where each document begins and ends in the file."""
        bounds, held_out = np.load(self.folder / "bounds.npy"), np.load(self.folder / "held_out.npy")
        return {"train": bounds[~held_out], "valid": bounds[held_out]}


def open_text(config: DataConfig, root: Path) -> TextStore:
    """The documents a config asks for, found in the cache `root` or built into it. DataError: any mistake."""
    check(config.held_out)
    corpus = open_corpus(config)
    identity = {
        "corpus": config.corpus,
        "content": corpus.identity(),
        "max_documents": config.max_documents,
        "held_out": config.held_out,
        "seed": config.seed,
    }
    return TextStore(build_once(root, "text", identity, lambda folder: _build(folder, corpus)))


def _build(folder: Path, corpus: Corpus) -> None:
    seen: set[bytes] = set()
    units: list[str] = []
    strata: list[str] = []
    digests: list[bytes] = []
    ends = [0]
    duplicates = 0
    with (folder / "text.utf8").open("wb") as file:
        for document in documents(corpus):
            # Texts that differ in white space alone count as one: either would give the other away.
            words = hashlib.sha256(" ".join(document.text.split()).encode()).digest()
            if words in seen:
                duplicates += 1
                continue
            seen.add(words)
            units.append(document.group or words.hex())
            strata.append(document.stratum)
            text = document.text.encode()
            digests.append(hashlib.sha256(text).digest())
            ends.append(ends[-1] + file.write(text))
    if not units:
        raise DataError(f"corpus {corpus.config.corpus!r} holds no text")
    cut = len(units) == 1
    if cut:
        if duplicates:
            raise DataError(
                f"the corpus is a single document: {duplicates} more have the same words (white space does not count)"
            )
        parts = split_text((folder / "text.utf8").read_bytes().decode(), corpus.config.held_out)
        ends = [0, len(parts[0].encode()), ends[-1]]
        digests = [hashlib.sha256(part.encode()).digest() for part in parts]
        held_out = np.array([False, True])
    else:
        held_out = hold_out(units, strata, corpus.config.held_out, corpus.config.seed)
    np.save(folder / "bounds.npy", np.array([ends[:-1], ends[1:]], dtype=np.int64).T)
    np.save(folder / "held_out.npy", held_out)
    total = {split: hashlib.sha256() for split in SPLITS}
    for held, digest in zip(held_out, digests, strict=True):
        total["valid" if held else "train"].update(digest)
    facts = {
        "fingerprints": {split: total[split].hexdigest() for split in SPLITS},
        "duplicates": duplicates,
        "cut": cut,
    }
    (folder / "text.json").write_text(json.dumps(facts, indent=2), encoding="utf-8")
