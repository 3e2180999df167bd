"""The tokens of a split, memory-mapped, and where each document lies in them."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError
from data.tokens import TokenFile, Tokens, open_tokens

FACTS = "shards.json"
COLUMNS = ("starts", "sizes", "given", "text_bytes")
"""The rows of an index, [4, D]."""


@dataclass(frozen=True)
class Source:
    """Consecutive documents of a shard, and how often they are trained on among those of other sources."""

    name: str
    documents: int
    weight: float = 1.0


@dataclass(frozen=True, eq=False)
class Shard:
    """D documents, each stored as BOS followed by its tokens; `len(shard)` is D."""

    files: tuple[TokenFile, ...]
    """Where the token ids lie, one after the other."""
    starts: NDArray[np.int64]
    """[D] where a document's BOS lies in them."""
    sizes: NDArray[np.int64]
    """[D] tokens of a document, BOS included."""
    given: NDArray[np.int64]
    """[D] tokens at the beginning of a document's text that are given and not learned."""
    text_bytes: NDArray[np.int64]
    """[D] UTF-8 bytes of the rest of its text."""
    index: Path | None = None
    """The file of the cache that these four are rows of, if they are."""
    mixed: tuple[Source, ...] = ()
    """The sources that its documents are of, one after the other; none where they are all of one."""

    def __len__(self) -> int:
        return len(self.starts)

    @property
    def sources(self) -> tuple[Source, ...]:
        """The sources that its documents are of, one after the other; the whole where they are all of one."""
        return self.mixed or (Source("", len(self)),)

    @cached_property
    def n_tokens(self) -> int:
        """Tokens that are predicted: BOS never is, nor what is given."""
        return int(self.sizes.sum() - self.given.sum()) - len(self)

    @cached_property
    def n_bytes(self) -> int:
        """UTF-8 bytes of all that is predicted."""
        return int(self.text_bytes.sum())

    @cached_property
    def tokens(self) -> "NDArray[Any] | Tokens":
        """All token ids, memory-mapped, read-only: an array, or what reads like one where they lie in several files."""
        return open_tokens(self.files)

    @property
    def dtype(self) -> str:
        """Of the token ids."""
        return self.files[0].dtype

    @property
    def bos(self) -> int:
        """The token that every document begins with."""
        return int(self.tokens[self.starts[0]])

    def document(self, index: int) -> NDArray[Any]:
        """The tokens of one document, BOS first."""
        tokens: NDArray[Any] = self.tokens[self.starts[index] : self.starts[index] + self.sizes[index]]
        return tokens

    def subset(self, max_tokens: int) -> "Shard":
        """Evenly spaced whole documents, at least one, with about `max_tokens` tokens of text.

        For validation on part of a large held-out split; bits per byte stay exact, as no document is cut.
        """
        if self.n_tokens <= max_tokens:
            return self
        count = max(1, int(len(self) * max_tokens / self.n_tokens))
        chosen = ((np.arange(count) + 0.5) * len(self) / count).astype(np.int64)
        parts = {name: getattr(self, name)[chosen] for name in COLUMNS}
        return replace(self, **parts, index=None, mixed=())

    def __getstate__(self) -> dict[str, Any]:
        """Without the memory map, which another process (a spawned data loader worker) opens again."""
        return {name: value for name, value in self.__dict__.items() if name != "tokens"}


def token_file(split: str, number: int, dtype: str) -> str:
    """The name of a part's token ids."""
    return f"{split}-{number:05d}.{dtype}"


def new_index(folder: Path, split: str, documents: int) -> "np.memmap[Any, np.dtype[np.int64]]":
    """The index of a split, [4, D] on disk, to be filled in: starts, sizes, given, text_bytes."""
    return np.lib.format.open_memmap(
        folder / f"{split}.npy", mode="w+", dtype=np.int64, shape=(len(COLUMNS), documents)
    )


def read_shard(folder: Path, split: str) -> Shard:
    """Open a split of a folder that was encoded. DataError: files are missing or cut short."""
    damaged = DataError(f"the cache folder {folder} is damaged: delete it, and it is built again")
    try:
        facts = json.loads((folder / FACTS).read_bytes())
        dtype, of_split = facts["dtype"], facts["splits"][split]
        paths = [folder / name for name in of_split["files"]]
        counts = [path.stat().st_size // np.dtype(dtype).itemsize for path in paths]
        files = tuple(TokenFile(path, dtype, count) for path, count in zip(paths, counts, strict=True))
        shard = read_index(folder, split, files)
    except (OSError, ValueError, KeyError, TypeError):
        raise damaged from None
    if len(shard) and int(shard.starts[-1] + shard.sizes[-1]) != sum(counts):
        raise damaged
    sources = of_split["sources"]
    mixed = tuple(Source(name, count) for name, count in sources.items()) if set(sources) - {""} else ()
    return replace(shard, mixed=mixed)


def read_index(folder: Path, split: str, files: Sequence[TokenFile]) -> Shard:
    """The documents that the index of a split in the cache finds in token files."""
    file = folder / f"{split}.npy"
    starts, sizes, given, text_bytes = np.load(file, mmap_mode="r")
    return Shard(tuple(files), starts, sizes, given, text_bytes, file)
