"""What a source of documents is."""

from abc import ABC, abstractmethod
from collections.abc import Iterator
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any, ClassVar

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


class Corpus(ABC):
    """A source of documents, opened from a config; opening it checks what the user wrote."""

    Options: ClassVar[type] = NoOptions
    """A dataclass, whose fields become keys of `data`."""
    options: ClassVar[frozenset[str]] = frozenset()
    """Their names."""
    answers_after: ClassVar[str | None] = None
    """What ends, where it first stands, the part of a document that is given and not learned; None: all is learned."""

    def __init_subclass__(cls) -> None:
        cls.options = frozenset(option.name for option in fields(cls.Options))

    def __init__(self, config: "DataConfig") -> None:
        self.config = config

    @abstractmethod
    def identity(self) -> dict[str, Any]:
        """What decides the text, as a JSON value; cheap, since it is asked each time the data is prepared."""

    @abstractmethod
    def documents(self) -> Iterator[Document]:
        """The documents, always in the same order. DataError: nothing to read, or not readable as text."""
