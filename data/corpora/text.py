"""Plain text files."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from dataclasses import field as option
from typing import TYPE_CHECKING

from data.corpora.base import Document
from data.corpora.files import FileCorpus, PathOptions
from data.corpora.reading import read_lines
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig

AT_ONCE = 1 << 20
"""Characters that are looked through at once."""


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
        if separator is not None:
            # As the lines of the files come.
            separator = separator.replace("\r\n", "\n").replace("\r", "\n")
        for file in self.files:
            if separator is None:
                yield Document("".join(read_lines(file)))
                continue
            for number, part in enumerate(_split(read_lines(file), separator)):
                separated |= number > 0
                yield Document(part.removeprefix("\n"))
        if separator is not None and not separated:
            raise DataError(
                f"the separator {separator!r} is nowhere in {self.config.path}; without one, a file is a document"
            )


def _split(lines: Iterable[str], separator: str) -> Iterator[str]:
    """What `"".join(lines).split(separator)` gives, with no more in memory than is needed for one part."""
    rest, more, size = "", list[str](), 0
    for line in lines:
        more.append(line)
        size += len(line)
        if size >= max(AT_ONCE, len(rest)):
            *whole, rest = (rest + "".join(more)).split(separator)
            yield from whole
            more, size = [], 0
    yield from (rest + "".join(more)).split(separator)
