"""What a source of documents is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from itertools import islice
from typing import TYPE_CHECKING, Any, ClassVar

from data.corpora.reading import Hashes, content_hashes

if TYPE_CHECKING:
    from data.config import DataConfig


@dataclass
class NoOptions:
    """Nothing."""


@dataclass(frozen=True)
class Document:
    """One text that is never split between training and held-out data."""

    text: str
    group: str | None = None
    """Documents of one group are held out together or not at all; None: alone."""
    stratum: str = ""
    """Held-out documents are spread evenly over the strata."""
    source: str = ""
    """Which of several sources it is of, where there are several; the documents of one follow one another."""


class Corpus(ABC):
    """A source of documents, opened from a config; opening it checks what the user wrote."""

    Options: ClassVar[type] = NoOptions
    """A dataclass, whose fields become keys of `data`."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Their names."""
    answers_after: str | None = None
    """What ends, where it first stands, the part of a document that is given and not learned; None: all is learned."""

    remote: bool = False
    """Whether reading it again costs a download."""

    def __init_subclass__(cls) -> None:
        cls.options = frozenset(option.name for option in fields(cls.Options))

    def __init__(self, config: "DataConfig") -> None:
        self.config = config

    @abstractmethod
    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """What decides the text, as a JSON value; cheap, since it is asked each time the data is prepared.

        The content of files is hashed by `hashes`, which may know it.
        """

    def text_bytes(self) -> int | None:
        """About how many bytes the text of all documents has; None where that is not known before it is read."""
        return None

    def documents_from(self, start: int) -> Iterator[Document]:
        """The documents without the first `start` of them."""
        return islice(self.documents(), start, None)

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, always in the same order. DataError: nothing to read, or not readable as text."""
