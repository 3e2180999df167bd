"""Any dataset that the `datasets` library can stream, from the hub or from this machine."""

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from data.config import DataConfig
from data.corpora.base import Corpus, Document
from data.corpora.files import file_hash, first_line, text_of
from data.errors import DataError


class HuggingFace(Corpus):
    """`datasets.load_dataset(dataset, dataset_name, split=dataset_split, data_files=path, streaming=True)`.

    Streamed, so that FineWeb-Edu with `max_documents=100000` downloads no more than it needs. Local files are
    identified by their content; a dataset on the hub by its name alone: its copy stays until the cache is
    cleared.
    """

    options = frozenset({"path", "field", "dataset", "dataset_name", "dataset_split"})

    def __init__(self, config: DataConfig) -> None:
        super().__init__(config)
        if not config.dataset:
            raise DataError(
                "corpus 'huggingface' needs dataset, e.g. HuggingFaceFW/fineweb-edu, or a local folder"
            )

    def identity(self) -> dict[str, Any]:
        """The options, and the content of whatever in them lies on this machine."""
        named = {option: getattr(self.config, option) for option in sorted(self.options)}
        return {"options": named, "files": [file_hash(file) for file in self._local_files()]}

    def documents(self) -> Iterator[Document]:
        """The stream's records, from the first on."""
        try:
            from datasets import exceptions, load_dataset
        except ImportError:
            raise DataError(
                "corpus 'huggingface' needs a package that is missing: pip install datasets"
            ) from None
        config = self.config
        named = " ".join(filter(None, [config.dataset, config.dataset_name, config.path]))
        try:
            stream = load_dataset(
                config.dataset,
                config.dataset_name,
                split=config.dataset_split,
                data_files=config.path,
                streaming=True,
                trust_remote_code=False,
            )
            for number, record in enumerate(stream, start=1):
                yield Document(text_of(record, config.field, f"{named}, record {number}"))
        except DataError:
            raise
        except (OSError, ValueError, exceptions.DatasetsError) as error:
            raise DataError(f"cannot read dataset {named}: {first_line(error)}") from None

    def _local_files(self) -> list[Path]:
        patterns = [named for named in (self.config.dataset, self.config.path) if named]
        roots = [Path(found) for pattern in patterns for found in sorted(glob.glob(pattern, recursive=True))]
        below = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
        return [file for file in below if file.is_file()]
