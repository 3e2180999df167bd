"""Results of a long build in numbered parts: each is there whole and checked, or not there, whenever it is killed."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from common.files import sync, write_json
from common.hashing import file_hash

SIZE = 128 << 20
"""UTF-8 bytes of text after which a part ends: what a kill costs at most."""
DOCUMENTS = 1 << 19
"""A part ends after so many documents, too."""


class Parts:
    """The parts in a folder: files of any name, and for part n a `n.json` with their sizes, hashes, and facts."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        folder.mkdir(exist_ok=True)

    def done(self) -> list[dict[str, Any]]:
        """The facts of the parts from the first on that are whole, every byte as it was written."""
        found: list[dict[str, Any]] = []
        while (facts := self._whole(len(found))) is not None:
            found.append(facts)
        return found

    def commit(self, number: int, files: Iterable[Path], **facts: Any) -> None:
        """Finish a part: its files reach the disk, and then what is known of them."""
        for file in files:
            sync(file)
        described = {os.path.relpath(file, self.folder): file_hash(file) for file in files}
        write_json(self._record(number), {"files": described, **facts})

    def _record(self, number: int) -> Path:
        return self.folder / f"{number:05d}.json"

    def _whole(self, number: int) -> dict[str, Any] | None:
        facts = read_record(self._record(number))
        try:
            whole = all(file_hash(self.folder / name) == wanted for name, wanted in facts["files"].items())
        except (OSError, KeyError, TypeError, AttributeError):
            return None
        return facts if whole else None


def read_record(path: Path) -> Any:
    """The value of a JSON file, None where there is none that can be read."""
    try:
        return json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
