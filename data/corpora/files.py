"""Documents from local files: plain text, JSON lines, parquet."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, ClassVar

from common.errors import nearest
from data.config import DataConfig
from data.corpora.base import Corpus, Document
from data.corpora.reading import content_hash, files_below, local_path, read_lines, reason, suffix
from data.errors import DataError


class FileCorpus(Corpus):
    """One file, or every file with the right suffix below a folder, in the order of their paths."""

    suffixes: ClassVar[tuple[str, ...]]
    """Of the files of a folder; compressed ones have a second one behind it."""
    otherwise: ClassVar[tuple[str, ...]] = ()
    """Suffixes that count where a folder has no file with one of `suffixes`."""

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        if not config.path:
            suffixes = ", ".join(self.suffixes)
            raise DataError(f"corpus {config.corpus!r} needs path: a file, or a folder of files ({suffixes})")
        self.files = self.find(local_path(config.path))

    @classmethod
    def find(cls, path: Path) -> list[Path]:
        """The file itself, whatever its suffix, or the visible files below a folder that have a right one."""
        if path.is_file():
            return [path]
        below = files_below(path)
        for suffixes in (cls.suffixes, cls.otherwise):
            if found := [file for file in below if suffix(file) in suffixes]:
                return found
        wanted = " or ".join(cls.suffixes + cls.otherwise)
        raise DataError(f"no {wanted} file, compressed or not, in {path}")

    def identity(self) -> dict[str, Any]:
        """The content of the files and the options that decide how it is read; not where the files lie."""
        return {
            "options": {option: getattr(self.config, option) for option in sorted(self.options - {"path"})},
            "files": [content_hash(file) for file in self.files],
        }


class Text(FileCorpus):
    """Each file is a document, or several where `separator` is set; UTF-8."""

    options = frozenset({"path", "separator"})
    suffixes = (".txt", ".md")

    def __init__(self, config: DataConfig) -> None:
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


class Jsonl(FileCorpus):
    """One JSON object a line, the text in `field`."""

    options = frozenset({"path", "field"})
    suffixes = (".jsonl", ".ndjson")
    otherwise = (".json",)

    def documents(self) -> Iterator[Document]:
        """One document a line; blank lines do not count."""
        for file in self.files:
            for number, line in enumerate(read_lines(file), start=1):
                if not line.strip():
                    continue
                where = f"{file}, line {number}"
                try:
                    record = json.loads(line)
                except json.JSONDecodeError as error:
                    raise DataError(f"{where}: not JSON ({error.msg} at column {error.colno})") from None
                except (ValueError, RecursionError) as error:
                    raise DataError(f"{where}: JSON that cannot be read ({reason(error)})") from None
                if not isinstance(record, dict):
                    raise DataError(f"{where}: a JSON object is expected, not {type(record).__name__}")
                yield Document(text_of(record, self.config.field, where))


class Parquet(FileCorpus):
    """One document a row, the text in the column `field`."""

    options = frozenset({"path", "field"})
    suffixes = (".parquet",)

    def documents(self) -> Iterator[Document]:
        """Rows in order, read a batch at a time."""
        try:
            import pyarrow
            import pyarrow.parquet
        except ImportError:
            raise DataError("corpus 'parquet' needs a package that is missing: pip install pyarrow") from None
        field = self.config.field
        for file in self.files:
            number = 0  # of the last row that was read
            try:
                with pyarrow.parquet.ParquetFile(file) as table:
                    columns = table.schema_arrow.names
                    if field not in columns:
                        raise DataError(f"{file} has no column {field!r}{nearest(field, columns)}")
                    for batch in table.iter_batches(batch_size=1024, columns=[field]):
                        for record in batch.to_pylist():
                            number += 1
                            yield Document(text_of(record, field, f"{file}, row {number}"))
            except DataError:
                raise
            except Exception as error:  # whatever pyarrow makes of a damaged file
                what = f"is damaged after row {number}" if number else "is not a parquet file, or is damaged"
                raise DataError(f"{file} {what}: {reason(error)}; fetch or write it again") from None


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
