"""Token files of others: which documents are kept and on which side, as of text; the ids stay where they lie."""

import hashlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from common.files import write_json
from data.corpora.tokens import TokenFiles
from data.errors import DataError
from data.progress import Progress
from data.shards import new_index
from data.split import DIGEST, chance, duplicates, hold_out
from data.survey import SPLITS
from data.text import FACTS
from data.tokenizer import Tokenizer

CHUNK = 1 << 22
"""Token ids that are looked at in one go."""


def survey_tokens(folder: Path, corpus: TokenFiles, tokenizer: Tokenizer) -> None:
    """Write the index of both splits and what is known of them into a folder.

    A document is known by its ids, where text is by its words. DataError: ids that are not of the tokenizer, or of
    which it made unknown pieces; no documents, or a single one.
    """
    config, tokens = corpus.config, corpus.tokens
    starts, sizes, text_bytes = _documents(corpus, tokenizer)
    with_text = np.flatnonzero(sizes > 1)[: config.max_documents]
    starts, sizes, text_bytes = starts[with_text], sizes[with_text], text_bytes[with_text]
    shape = (len(starts), *DIGEST.shape)
    digests = np.lib.format.open_memmap(folder / "digests.npy", mode="w+", dtype=DIGEST.base, shape=shape)
    chances = np.lib.format.open_memmap(folder / "chances.npy", mode="w+", dtype=DIGEST.base, shape=shape)
    for number, (start, size) in enumerate(zip(starts.tolist(), sizes.tolist(), strict=True)):
        found = hashlib.sha256(tokens[start + 1 : start + size].astype("<u4").tobytes())
        digests[number] = np.frombuffer(found.digest(), DIGEST.base)
        chances[number] = np.frombuffer(chance(found.hexdigest(), config.seed), DIGEST.base)
    kept = ~duplicates([digests])
    if kept.sum() < 2:
        raise DataError(f"{config.path} holds a single document; to train on some and hold out some takes 2")
    held = hold_out([chances], [np.zeros(len(kept), np.int32)], [""], kept, config.held_out)
    fingerprints = {}
    for side, split in enumerate(SPLITS):
        chosen = kept & (held == side)
        index = new_index(folder, split, int(chosen.sum()))
        index[:] = starts[chosen], sizes[chosen], np.zeros(chosen.sum()), text_bytes[chosen]
        index.flush()
        total = hashlib.sha256()
        for begin in range(0, len(chosen), CHUNK):
            total.update(digests[begin : begin + CHUNK][chosen[begin : begin + CHUNK]].tobytes())
        fingerprints[split] = total.hexdigest()
    for file in ("digests.npy", "chances.npy"):
        (folder / file).unlink()
    write_json(folder / FACTS, {"fingerprints": fingerprints, "duplicates": int((~kept).sum())})


def document_bounds(corpus: TokenFiles, tokenizer: Tokenizer) -> Iterator[tuple[int, int]]:
    """Where each document's BOS lies, and where it ends."""
    starts, sizes, _ = _documents(corpus, tokenizer)
    return zip(starts.tolist(), (starts + sizes).tolist(), strict=True)


def _documents(
    corpus: TokenFiles, tokenizer: Tokenizer
) -> tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.int64]]:
    """Where each document's BOS lies, its tokens with it, and its bytes of text."""
    tokens, where = corpus.tokens, corpus.config.path
    if not len(tokens) or tokens[0] != tokenizer.bos:
        raise DataError(
            f"{where} does not begin with BOS, {tokenizer.bos} of this tokenizer: each document stands behind one"
        )
    bytes_of = np.array([len(piece) for piece in tokenizer.piece_bytes()])
    starts, before, total = [], [], 0
    with Progress("reading tokens", len(tokens) * tokens.dtype.itemsize) as progress:
        for begin in range(0, len(tokens), CHUNK):
            chunk = np.asarray(tokens[begin : begin + CHUNK])
            for wrong, what in (
                (
                    chunk >= tokenizer.vocab_size,
                    f"is outside the vocabulary of {tokenizer.vocab_size} pieces",
                ),
                (chunk == tokenizer.unknown, "is the unknown piece: text was lost when it was written"),
            ):
                if wrong.any():
                    place = int(wrong.argmax())
                    raise DataError(f"{where}: id {chunk[place]} at place {begin + place} {what}")
            places = np.flatnonzero(chunk == tokenizer.bos)
            read = np.cumsum(bytes_of[chunk])
            starts.append(begin + places)
            before.append(total + read[places])
            total += int(read[-1])
            progress.add(chunk.nbytes)
    begins, so_far = np.concatenate(starts), np.concatenate(before)
    return begins, np.diff(begins, append=len(tokens)), np.diff(so_far, append=total)
