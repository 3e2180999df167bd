"""Plain text files."""

from collections.abc import Iterator
from dataclasses import dataclass
from dataclasses import field as option
from typing import TYPE_CHECKING

from data.corpora.base import Document
from data.corpora.files import FileCorpus, PathOptions
from data.corpora.reading import read_lines
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig


class Text(FileCorpus):
    """Each file is a document, or several where `separator` is set; UTF-8."""

    @dataclass
    class Options(PathOptions):
        """Keys of `data`.

        Attributes:
            separator: text: what stands between two documents of a file, e.g. "<|endoftext|>". None: a file is a
                document.
        """

        separator: str | None = option(default=None, metadata={"escapes": True})

    suffixes = (".txt", ".md")

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        if config.separator == "":
            raise DataError(
                'separator is empty; give what stands between two documents, e.g. "<|endoftext|>"'
            )

    def documents(self) -> Iterator[Document]:
        """Texts as they are; the line break that ends a line of a separator is part of the separator.

        DataError: a separator that is in none of the files.
        """
        separator, separated = self.config.separator, False
        for file in self.files:
            text = "".join(read_lines(file))
            if separator is None:
                yield Document(text)
                continue
            parts = text.split(separator)
            separated |= len(parts) > 1
            for part in parts:
                yield Document(part.removeprefix("\n"))
        if separator is not None and not separated:
            raise DataError(
                f"the separator {separator!r} is nowhere in {self.config.path}; without one, a file is a document"
            )
