"""Any dataset that the `datasets` library reads: from the hub, from files of this machine, from `save_to_disk`."""

import glob
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from common.errors import nearest
from data.corpora.base import Corpus, Document
from data.corpora.files import FieldOptions, text_of
from data.corpora.reading import Hashes, content_hashes, local_path, reason
from data.errors import DataError

if TYPE_CHECKING:
    from data.config import DataConfig


class HuggingFace(Corpus):
    """`datasets.load_dataset(dataset, dataset_name, split=dataset_split, data_files=path, streaming=True)`.

    Streamed, so that FineWeb-Edu with `max_documents=100000` downloads no more than it needs. A folder that
    `save_to_disk` wrote is read as it is, named by `dataset` or by `path`. Local files are identified by their
    content; a dataset on the hub by its name alone: its copy stays until the cache is cleared.
    """

    @dataclass
    class Options(FieldOptions):
        """Keys of `data`.

        Attributes:
            dataset: huggingface: name on the hub, a local folder, or a builder such as "json".
            dataset_name: huggingface: the dataset's configuration, e.g. "sample-10BT".
            dataset_split: huggingface: the split to stream; held-out documents are taken from it too.
        """

        dataset: str | None = None
        dataset_name: str | None = None
        dataset_split: str = "train"

    def __init__(self, config: "DataConfig") -> None:
        super().__init__(config)
        named = config.dataset or config.path
        self._saved = local_path(named) if named and is_saved(named) else None
        if not config.dataset and self._saved is None:
            raise DataError(
                "corpus 'huggingface' needs dataset, e.g. HuggingFaceFW/fineweb-edu, or a local folder"
            )

    def identity(self, hashes: Hashes = content_hashes) -> dict[str, Any]:
        """The options, and the content of whatever in them lies on this machine."""
        named = {option: getattr(self.config, option) for option in sorted(self.options)}
        return {"options": named, "files": hashes(self._local_files())}

    @property
    def remote(self) -> bool:  # type: ignore[override]
        """Whether nothing of it lies on this machine."""
        return not self._local_files()

    def documents(self) -> Iterator[Document]:
        """The records from the first on."""
        return self.documents_from(0)

    def documents_from(self, start: int) -> Iterator[Document]:
        """The records without the first `start` of them."""
        config = self.config
        named = " ".join(filter(None, [config.dataset, config.dataset_name, config.path]))
        try:
            import datasets
        except ImportError:
            raise DataError(
                "corpus 'huggingface' needs a package that is missing: pip install datasets"
            ) from None
        try:
            records = self._records(datasets)
            for number, record in enumerate(records.skip(start) if start else records, start + 1):
                yield Document(text_of(record, config.field, f"{named}, record {number}"))
        except DataError:
            raise
        except Exception as error:  # of many libraries beneath
            raise DataError(f"cannot read dataset {named}: {reason(error)}") from None

    def _records(self, datasets: Any) -> Any:
        config = self.config
        if self._saved is None:
            return datasets.load_dataset(
                config.dataset,
                config.dataset_name,
                split=config.dataset_split,
                data_files=config.path,
                streaming=True,
                trust_remote_code=False,
            )
        found = datasets.load_from_disk(str(self._saved))
        splits = found if isinstance(found, datasets.DatasetDict) else {"train": found}
        if config.dataset_split not in splits:
            raise DataError(
                f"{self._saved} has no split {config.dataset_split!r}{nearest(config.dataset_split, splits)}"
            )
        return splits[config.dataset_split]

    def _local_files(self) -> list[Path]:
        patterns = [named for named in (self.config.dataset, self.config.path) if named]
        roots = [Path(found) for pattern in patterns for found in sorted(glob.glob(pattern, recursive=True))]
        below = [file for root in roots for file in ([root] if root.is_file() else sorted(root.rglob("*")))]
        return [file for file in below if file.is_file()]


def is_saved(path: str) -> bool:
    """Whether a folder was written by `save_to_disk` of the `datasets` library."""
    try:
        folder = local_path(path)
    except DataError:
        return False
    return any((folder / name).is_file() for name in ("state.json", "dataset_dict.json"))
