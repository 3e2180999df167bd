"""The documents of a corpus as tokens: the work of many processes, in parts, so that a kill costs one of them."""

import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from common.files import write_json
from data import parts as part
from data.batching import in_batches
from data.errors import DataError
from data.parts import Parts
from data.progress import Progress
from data.shards import FACTS, new_index, token_file
from data.survey import BATCH, SPLITS
from data.text import Kept, SplitText
from data.tokenizer import LostTextError, Tokenizer
from data.workers import in_order

Numbered = list[tuple[str, int]]
"""Texts of a split, each with its number there."""


@dataclass(frozen=True)
class Encoded:
    """Documents of a split: bytes of token ids, BOS before each, and [n, 3] tokens, given tokens, bytes learned."""

    tokens: bytes
    index: NDArray[np.int64]
    text_bytes: int


@dataclass(frozen=True)
class Encoder:
    """What workers make of the documents of a batch, by split."""

    tokenizer: Tokenizer
    answers_after: str | None
    """What ends the part of a document that is given and not learned; one token."""

    def __call__(self, batch: dict[str, Numbered]) -> dict[str, Encoded]:
        """DataError: the tokenizer loses a text, or has more than one piece for `answers_after`."""
        return {split: self._encode(split, documents) for split, documents in batch.items()}

    def _encode(self, split: str, documents: Numbered) -> Encoded:
        mark = [] if self.answers_after is None else self.tokenizer.encode(self.answers_after)
        if len(mark) > 1:
            raise DataError(
                f"the tokenizer makes {len(mark)} tokens of {self.answers_after!r}, which must be one"
            )
        try:
            encoded = self.tokenizer.encode_packed([text for text, _ in documents])
        except LostTextError as lost:
            raise DataError(f"{lost} (document {documents[lost.index][1] + 1} of {split})") from None
        dtype = np.dtype(self.tokenizer.dtype)
        bos = np.array(self.tokenizer.bos, dtype=dtype).tobytes()
        index, size = [], 0
        for (text, _), ids in zip(documents, encoded, strict=True):
            text_bytes = learned = len(text.encode())
            given = 0
            if mark:
                given = int(np.flatnonzero(np.frombuffer(ids, dtype) == mark[0])[0]) + 1
                learned = len(text.partition(str(self.answers_after))[2].encode())
            index.append((1 + len(ids) // dtype.itemsize, given, learned))
            size += text_bytes
        tokens = b"".join(part for ids in encoded for part in (bos, ids))
        return Encoded(tokens, np.array(index, dtype=np.int64).reshape(-1, 3), size)


def encode(folder: Path, text: SplitText, tokenizer: Tokenizer, answers_after: str | None = None) -> None:
    """Encode both splits into a folder that `read_shard` opens, or go on where another did who was stopped.

    DataError: the tokenizer loses some text, or has more than one piece for `answers_after`.
    """
    if not (folder / FACTS).exists():
        parts = Parts(folder / "parts")
        _write(folder, parts, text, Encoder(tokenizer, answers_after))
        _join(folder, parts, tokenizer.dtype)
    shutil.rmtree(folder / "parts", ignore_errors=True)


def _write(folder: Path, parts: Parts, text: SplitText, encoder: Encoder) -> None:
    """Encode all parts that are not there yet."""
    done = parts.done()
    number, begun = len(done), done[-1]["end"] if done else 0
    counts = {split: sum(sum(facts["sources"][split].values()) for facts in done) for split in SPLITS}
    found: list[dict[str, Encoded]] = []
    sources: dict[str, Counter[str]] = {split: Counter() for split in SPLITS}

    def batches() -> Iterator[tuple[list[Kept], dict[str, Numbered]]]:
        for documents in in_batches(text.kept(begun), lambda kept: len(kept.text), BATCH):
            batch: dict[str, Numbered] = {split: [] for split in SPLITS}
            for kept in documents:
                batch[kept.split].append((kept.text, counts[kept.split]))
                counts[kept.split] += 1
            yield documents, batch

    def commit(end: int, size: int) -> None:
        files = []
        for split in SPLITS:
            tokens, index = (
                folder / token_file(split, number, encoder.tokenizer.dtype),
                _index(parts, split, number),
            )
            with tokens.open("wb") as file:
                file.writelines(encoded[split].tokens for encoded in found)
            np.save(index, np.concatenate([encoded[split].index for encoded in found]))
            files += [tokens, index]
        parts.commit(number, files, end=end, bytes=size, sources=sources)
        found.clear()
        for counter in sources.values():
            counter.clear()

    begun_bytes = sum(facts["bytes"] for facts in done)
    with Progress("encoding", sum(text.bytes.values()), begun_bytes) as progress:
        size = 0
        for documents, encoded in in_order(encoder, batches()):
            found.append(encoded)
            for kept in documents:
                sources[kept.split][kept.source] += 1
            more = sum(one.text_bytes for one in encoded.values())
            progress.add(more)
            size += more
            if size >= part.SIZE or sum(map(Counter.total, sources.values())) >= part.DOCUMENTS:
                commit(documents[-1].place + 1, size)
                number, size = number + 1, 0
        if found:
            commit(documents[-1].place + 1, size)


def _join(folder: Path, parts: Parts, dtype: str) -> None:
    """One index of each split from those of the parts, and the facts, with which the folder is complete."""
    done = parts.done()
    sources: dict[str, dict[str, int]] = {split: {} for split in SPLITS}
    splits: dict[str, Any] = {}
    for split in SPLITS:
        for facts in done:
            for source, count in facts["sources"][split].items():
                sources[split][source] = sources[split].get(source, 0) + count
        index = new_index(folder, split, sum(sources[split].values()))
        begin, start = 0, 0
        for number in range(len(done)):
            of_part = np.load(_index(parts, split, number))
            here = slice(begin, begin + len(of_part))
            index[1:, here] = of_part.T
            index[0, here] = start + np.cumsum(of_part[:, 0]) - of_part[:, 0]
            begin, start = here.stop, start + int(of_part[:, 0].sum())
        index.flush()
        names = [token_file(split, number, dtype) for number in range(len(done))]
        splits[split] = {"files": names, "sources": sources[split]}
    write_json(folder / FACTS, {"dtype": dtype, "splits": splits})


def _index(parts: Parts, split: str, number: int) -> Path:
    return parts.folder / f"{number:05d}-{split}.npy"
