"""Documents from local files: plain text, JSON lines, parquet."""

import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.corpora.base import Corpus, Document
from data.errors import DataError, nearest


class FileCorpus(Corpus):
    """One file, or every file with the right suffix below a folder, in the order of their paths."""

    suffixes: tuple[str, ...]

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        if not config.path:
            suffixes = ", ".join(self.suffixes)
            raise DataError(f"corpus {config.corpus!r} needs path: a file, or a folder of files ({suffixes})")
        self.files = find_files(config.path, self.suffixes)

    def identity(self) -> dict[str, Any]:
        """The content of the files and the options that decide how it is read; not where the files lie."""
        return {
            "options": {option: getattr(self.config, option) for option in sorted(self.options - {"path"})},
            "files": [file_hash(file) for file in self.files],
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
        """Texts as they are; the line break that ends a line of a separator is part of the separator."""
        for file in self.files:
            text = "".join(read_lines(file))
            if self.config.separator is None:
                yield Document(text)
                continue
            for part in text.split(self.config.separator):
                yield Document(part.removeprefix("\n"))


class Jsonl(FileCorpus):
    """One JSON object a line, the text in `field`."""

    options = frozenset({"path", "field"})
    suffixes = (".jsonl",)

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
        for file in self.files:
            try:
                table = pyarrow.parquet.ParquetFile(file)
            except pyarrow.ArrowException as error:
                raise DataError(f"{file} is not a parquet file: {first_line(error)}") from None
            columns = table.schema_arrow.names
            if self.config.field not in columns:
                hint = nearest(self.config.field, columns)
                raise DataError(f"{file} has no column {self.config.field!r}{hint}")
            for batch in table.iter_batches(batch_size=1024, columns=[self.config.field]):
                for record in batch.to_pylist():
                    yield Document(text_of(record, self.config.field, str(file)))


def text_of(record: dict[str, Any], field: str, where: str) -> str:
    """The text in a record's field. DataError: no such field, not a string, or a lone surrogate in it."""
    if field not in record:
        raise DataError(f"{where}: no field {field!r}{nearest(field, record)}")
    text = record[field]
    if not isinstance(text, str):
        raise DataError(f"{where}: field {field!r} holds {type(text).__name__}, not text")
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise DataError(f"{where}: field {field!r} is not valid Unicode ({error.reason})") from None
    return text


def find_files(path: str, suffixes: tuple[str, ...]) -> list[Path]:
    """The file itself, whatever its suffix, or the visible files below a folder that have a right one."""
    root = Path(path).expanduser()
    if root.is_file():
        return [root]
    if not root.is_dir():
        raise DataError(f"no such file or folder: {path}")
    below = sorted(file for file in root.rglob("*") if file.suffix in suffixes and file.is_file())
    files = [file for file in below if not any(part[0] == "." for part in file.relative_to(root).parts)]
    if not files:
        raise DataError(f"no {' or '.join(suffixes)} file in {path}")
    return files


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their line breaks. DataError: not UTF-8, or not readable."""
    try:
        with file.open(encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        raise DataError(f"{file} is not UTF-8 text: {error.reason}") from None
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None


def file_hash(file: Path) -> str:
    """Hex sha256 of a file's content."""
    try:
        with file.open("rb") as content:
            return hashlib.file_digest(content, "sha256").hexdigest()
    except OSError as error:
        raise DataError(f"cannot read {file}: {error.strerror}") from None


def first_line(error: BaseException) -> str:
    """The first line of what an error of another library says, or its name where it says nothing."""
    return next(iter(str(error).strip().splitlines()), type(error).__name__)
