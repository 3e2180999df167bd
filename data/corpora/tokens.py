"""Files of token ids, as other programs write them."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from common.ranges import one_of
from data.corpora.base import Document
from data.corpora.files import FileCorpus, PathOptions
from data.corpora.reading import reason
from data.errors import DataError
from data.tokens import TokenFile, Tokens, open_tokens

if TYPE_CHECKING:
    from data.config import DataConfig


class TokenFiles(FileCorpus):
    """Token ids of the SentencePiece model at `tokenizer.path`, each document behind a BOS; not copied.

    A .npy file says itself what its ids are, one of raw ids is of `token_dtype`. Files are read one after the other as
    one sequence: a document may go on in the next.
    """

    @dataclass
    class Options(PathOptions):
        """Keys of `data`.

        Attributes:
            token_dtype: tokens: what the ids of a .bin file are stored in.
        """

        token_dtype: str = one_of("uint16", "uint32")

    suffixes = (".bin", ".npy")

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        if config.tokenizer.path is None:
            raise DataError(
                "corpus 'tokens' needs tokenizer.path: the SentencePiece model of these ids, by which their bytes "
                "are known; without it there are no bits per byte"
            )

    @cached_property
    def token_files(self) -> tuple[TokenFile, ...]:
        """Where the ids lie. DataError: a file that does not hold ids of one of the two dtypes, or files of both."""
        found = tuple(self._token_file(file) for file in self.files)
        if len({file.dtype for file in found}) > 1:
            raise DataError(f"the files of {self.config.path} are of several dtypes; write them as one")
        return found

    @property
    def tokens(self) -> "NDArray[Any] | Tokens":
        """All ids, memory-mapped."""
        return open_tokens(self.token_files)

    def documents(self) -> Iterator[Document]:
        """The texts that the ids stand for."""
        from data.pretokenised import document_bounds
        from data.tokenizer import load_foreign

        assert self.config.tokenizer.path is not None
        tokenizer, tokens = load_foreign(self.config.tokenizer.path), self.tokens
        for begin, end in document_bounds(self, tokenizer):
            yield Document(tokenizer.decode(tokens[begin + 1 : end].tolist()))

    def _token_file(self, file: Path) -> TokenFile:
        if file.suffix != ".npy":
            size, width = file.stat().st_size, np.dtype(self.config.token_dtype).itemsize
            if size % width:
                raise DataError(f"{file}: {size} bytes are no whole number of {self.config.token_dtype} ids")
            return TokenFile(file, self.config.token_dtype, size // width)
        try:
            ids = np.load(file, mmap_mode="r", allow_pickle=False)
        except (OSError, ValueError, EOFError) as error:
            raise DataError(f"{file} is not a .npy file of numbers: {reason(error)}") from None
        if ids.ndim != 1 or ids.dtype.name not in ("uint16", "uint32") or not isinstance(ids, np.memmap):
            raise DataError(
                f"{file} holds {ids.dtype} of shape {list(ids.shape)}; uint16 or uint32 [n] is read"
            )
        return TokenFile(file, ids.dtype.name, len(ids), ids.offset)
