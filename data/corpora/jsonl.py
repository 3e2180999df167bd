"""Files of JSON lines."""

import json
from collections.abc import Iterator

from data.corpora.base import Document
from data.corpora.files import FieldOptions, FileCorpus, text_of
from data.corpora.reading import read_lines, reason
from data.errors import DataError


class Jsonl(FileCorpus):
    """One JSON object a line, the text in `field`."""

    Options = FieldOptions
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
