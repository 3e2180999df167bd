"""What corpora of local files share."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

from common.errors import nearest
from data.corpora.base import Corpus
from data.corpora.reading import COMPRESSED, Hashes, content_hashes, files_below, local_path, suffix
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig


@dataclass
class PathOptions:
    """Keys of `data`.

    Attributes:
        path: text, jsonl, parquet: a file or a folder. huggingface: the data files of a builder such as "json".
    """

    path: str | None = None


@dataclass
class FieldOptions(PathOptions):
    """Keys of `data`.

    Attributes:
        field: jsonl, parquet, huggingface: the column that holds the text.
    """

    field: str = "text"


class FileCorpus(Corpus):
    """One file, or every file with the right suffix below a folder, in the order of their paths."""

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files of a folder; compressed ones have a second one behind it."""
    otherwise: ClassVar[tuple[str, ...]] = ()
    """Suffixes that count where a folder has no file with one of `suffixes`."""

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        if not config.path:
            suffixes = ", ".join(self.suffixes)
            raise DataError(f"corpus {config.corpus!r} needs path: a file, or a folder of files ({suffixes})")
        self.files = self.find(local_path(config.path))

    @classmethod
    def find(cls, path: Path) -> list[Path]:
        """The file itself, whatever its suffix, or the visible files below a folder that have a right one.

        DataError: neither a file nor a folder, but a pipe or a device, or a folder without such a file.
        """
        if path.is_file():
            return [path]
        if not path.is_dir():
            raise DataError(f"{path} can be read once only; write it to a file, which is read several times")
        below = files_below(path)
        for suffixes in (cls.suffixes, cls.otherwise):
            if found := [file for file in below if suffix(file) in suffixes]:
                return found
        wanted = " or ".join(cls.suffixes + cls.otherwise)
        raise DataError(f"no {wanted} file, compressed or not, in {path}")

    def text_bytes(self) -> int | None:
        """The bytes of the files, unless they are compressed."""
        if any(file.suffix.lower() in COMPRESSED for file in self.files):
            return None
        return sum(file.stat().st_size for file in self.files)

    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """The content of the files and the options that decide how it is read; not where the files lie."""
        return {
            "options": {option: getattr(self.config, option) for option in sorted(self.options - {"path"})},
            "files": hashes(self.files),
        }


def text_of(record: dict[str, Any], field: str, where: str) -> str:
    """The text in a record's field. DataError: no such field, not a string, or a lone surrogate in it."""
    if field not in record:
        raise DataError(f"{where}: no field {field!r}{nearest(field, record)}")
    text = record[field]
    if text is None:
        raise DataError(f"{where}: field {field!r} is null, not text; leave such records out")
    if not isinstance(text, str):
        raise DataError(f"{where}: field {field!r} holds {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: field {field!r} is not valid Unicode ({error.reason})") from None
    return text
