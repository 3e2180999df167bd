"""Parquet files."""

from collections.abc import Iterator

from common.errors import nearest
from data.corpora.base import Document
from data.corpora.files import FieldOptions, FileCorpus, text_of
from data.corpora.reading import reason
from data.errors import DataError


class Parquet(FileCorpus):
    """One document a row, the text in the column `field`."""

    Options = FieldOptions
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
