"""Token ids of a split in one memory-mapped file, and where each document lies in it."""

from collections.abc import Iterable
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from tqdm import tqdm

from data.errors import DataError
from data.tokenizer import LostTextError, Tokenizer


@dataclass(frozen=True, eq=False)
class Shard:
    """D documents, each stored as BOS followed by its tokens; `len(shard)` is D."""

    path: Path
    """Raw token ids of `dtype`."""
    dtype: str
    starts: NDArray[np.int64]
    """[D] where a document's BOS lies in the file."""
    sizes: NDArray[np.int64]
    """[D] tokens of a document, BOS included."""
    given: NDArray[np.int64]
    """[D] tokens at the beginning of a document's text that are given and not learned."""
    text_bytes: NDArray[np.int64]
    """[D] UTF-8 bytes of the rest of its text."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def n_tokens(self) -> int:
        """Tokens that are predicted: BOS never is, nor what is given."""
        return int(self.sizes.sum() - self.given.sum()) - len(self)

    @property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all that is predicted."""
        return int(self.text_bytes.sum())

    @cached_property
    def tokens(self) -> NDArray[Any]:
        """The whole file, memory-mapped, read-only."""
        return np.memmap(self.path, dtype=self.dtype, mode="r")

    @property
    def bos(self) -> int:
        """The token that every document begins with."""
        return int(self.tokens[self.starts[0]])

    def document(self, index: int) -> NDArray[Any]:
        """The tokens of one document, BOS first."""
        return self.tokens[self.starts[index] : self.starts[index] + self.sizes[index]]

    def subset(self, max_tokens: int) -> "Shard":
        """Evenly spaced whole documents, at least one, with about `max_tokens` tokens of text.

        For validation on part of a large held-out split; bits per byte stay exact, as no document is cut.
        """
        if self.n_tokens <= max_tokens:
            return self
        count = max(1, int(len(self) * max_tokens / self.n_tokens))
        chosen = ((np.arange(count) + 0.5) * len(self) / count).astype(np.int64)
        parts = {name: getattr(self, name)[chosen] for name in ("starts", "sizes", "given", "text_bytes")}
        return replace(self, **parts)

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory map, which another process (a spawned data loader worker) opens again."""
        return {name: value for name, value in self.__dict__.items() if name != "tokens"}


def write_shard(
    folder: Path,
    name: str,
    texts: Iterable[str],
    tokenizer: Tokenizer,
    total: int,
    answers_after: str | None = None,
) -> None:
    """Encodes `total` texts into `folder/name.*`; each is given up to `answers_after`, which is one token.

    DataError: the tokenizer loses some text, or has more than one piece for `answers_after`.
    """
    dtype = "uint16" if tokenizer.vocab_size <= 1 << 16 else "uint32"
    lengths: list[tuple[int, int, int]] = []
    mark = [] if answers_after is None else tokenizer.encode(answers_after)
    if len(mark) > 1:
        raise DataError(f"the tokenizer makes {len(mark)} tokens of {answers_after!r}, which must be one")
    remaining = iter(tqdm(texts, desc=f"encoding {name}", total=total, leave=False, disable=None))
    with (folder / f"{name}.{dtype}").open("wb") as file:
        while batch := list(islice(remaining, 256)):
            try:
                encoded = tokenizer.encode_all(batch)
            except LostTextError as lost:
                raise DataError(f"{lost} (document {len(lengths) + lost.index + 1} of {name})") from None
            for text, ids in zip(batch, encoded, strict=True):
                np.array([tokenizer.bos, *ids], dtype=dtype).tofile(file)
                given = ids.index(mark[0]) + 1 if mark else 0
                learned = text if answers_after is None else text.partition(answers_after)[2]
                lengths.append((1 + len(ids), given, len(learned.encode())))
    np.save(folder / f"{name}.npy", np.array(lengths, dtype=np.int64))


def read_shard(folder: Path, name: str) -> Shard:
    """Opens what `write_shard` wrote. DataError: files are missing or cut short."""
    damaged = DataError(f"the cache folder {folder} is damaged: delete it, and it is built again")
    paths = list(folder.glob(f"{name}.uint*"))
    index = folder / f"{name}.npy"
    if len(paths) != 1 or not index.is_file():
        raise damaged
    dtype = paths[0].suffix[1:]
    sizes, given, text_bytes = np.load(index).T.copy()
    if paths[0].stat().st_size != int(sizes.sum()) * np.dtype(dtype).itemsize:
        raise damaged
    return Shard(paths[0], dtype, np.cumsum(sizes) - sizes, sizes, given, text_bytes)
