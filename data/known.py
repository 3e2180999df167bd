"""The hashes of large sources are remembered: they are read again when a file has another size, time or place."""

import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path

from common.files import write_json
from common.hashing import json_hash
from data.cache import READ_WHOLE
from data.corpora.reading import content_hashes
from data.parts import read_record

RECENT = 10 * 10**9
"""Nanoseconds within which a file may change again without its times telling."""


def known_hashes(root: Path) -> Callable[[Sequence[Path]], list[str]]:
    """Like `content_hashes`, but files of more than `READ_WHOLE` bytes in all are read once, and known from then on.

    They are known by path, inode, size, and the times of their last changes of content and of inode, which nobody sets
    by hand. A cache that cannot be written remembers nothing.
    """

    def hashes(files: Sequence[Path]) -> list[str]:
        before = _stamps(files)
        if sum(size for _, _, size, _, _ in before) <= READ_WHOLE:
            return content_hashes(files)
        record = root / f"known-{json_hash(before)[:20]}.json"
        if isinstance(known := read_record(record), list) and len(known) == len(files):
            return [str(value) for value in known]
        found = content_hashes(files)
        youngest = max(max(changed, moved) for *_, changed, moved in before)
        if _stamps(files) == before and time.time_ns() - youngest > RECENT:
            with suppress(OSError):
                write_json(record, found)
        return found

    return hashes


def _stamps(files: Sequence[Path]) -> list[tuple[str, int, int, int, int]]:
    stats = [(str(file.resolve()), file.stat()) for file in files]
    return [(name, it.st_ino, it.st_size, it.st_mtime_ns, it.st_ctime_ns) for name, it in stats]
