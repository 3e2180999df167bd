"""Files of others: where they lie, what they are compressed with, and one clear line for all that may be wrong."""

import bz2
import gzip
import io
import lzma
import os
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import IO, NoReturn

from common.hashing import file_hash
from data.errors import DataError

COMPRESSED = {".gz": b"\x1f\x8b", ".zst": b"\x28\xb5\x2f\xfd", ".xz": b"\xfd7zXZ\0", ".bz2": b"BZh"}
"""By suffix: what a file that is compressed so begins with."""
Hashes = Callable[[Sequence[Path]], list[str]]
"""What gives the sha256 of each file's content."""
ARCHIVES = {".tar", ".tgz", ".tbz2", ".txz", ".zip", ".7z", ".rar"}
"""Their files would be read with the names and sizes between them."""


def local_path(path: str | os.PathLike[str]) -> Path:
    """A file or folder that exists, `~` resolved. DataError: it does not, or its name cannot be one."""
    try:
        found = Path(path).expanduser()
        found.stat()
    except (FileNotFoundError, NotADirectoryError):
        raise DataError(f"no such file or folder: {shortened(path)}") from None
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"cannot find {shortened(path)}: {reason(error)}") from None
    return found


def suffix(file: Path) -> str:
    """What a file's name ends with, in small letters, the suffix of a compression left out: .jsonl of a.jsonl.gz."""
    inner = file.with_suffix("") if file.suffix.lower() in COMPRESSED else file
    return inner.suffix.lower()


def files_below(folder: Path) -> list[Path]:
    """The visible files of a folder and those below it, in the order of their paths; links to folders are not followed.

    DataError: a folder that cannot be read.
    """

    def refuse(error: OSError) -> NoReturn:
        raise DataError(f"cannot read the folder {error.filename}: {error.strerror}")

    found = []
    for place, folders, names in os.walk(folder, onerror=refuse):
        folders[:] = [name for name in folders if not name.startswith(".")]
        found += [Path(place, name) for name in names if not name.startswith(".")]
    return sorted(found)


def read_lines(file: Path) -> Iterator[str]:
    """The lines of a UTF-8 file, with their line breaks, decompressed where it is compressed.

    DataError: damaged, not UTF-8, or not readable.
    """
    try:
        with io.TextIOWrapper(_open(file), encoding="utf-8-sig") as lines:
            yield from lines
    except UnicodeDecodeError as error:
        other = "UTF-16" if _begins(file) in (b"\xff\xfe", b"\xfe\xff") else "LATIN1"
        raise DataError(
            f"{file} is not UTF-8 text ({error.reason}); if it is {other}, convert it: iconv -f {other} -t UTF-8"
        ) from None
    except DataError:
        raise
    except Exception as error:  # each decompressor has errors of its own
        raise DataError(
            f"cannot read {file}: {reason(error)}; is it whole? fetch or write it again"
        ) from None


def content_hashes(files: Sequence[Path]) -> list[str]:
    """Hex sha256 of each file's content. DataError: not readable."""
    found = []
    for file in files:
        try:
            found.append(file_hash(file))
        except OSError as error:
            raise DataError(f"cannot read {file}: {reason(error)}") from None
    return found


def reason(error: BaseException) -> str:
    """What an error says, in one line of a reasonable length; its name where it says nothing."""
    said = getattr(error, "strerror", None) or str(error)
    return shortened(next(iter(str(said).strip().splitlines()), type(error).__name__))


def shortened(text: str | os.PathLike[str], most: int = 300) -> str:
    """A text for a message, its middle left out where it is very long."""
    text = os.fspath(text)
    return text if len(text) <= most else f"{text[: most // 2]}...{text[-most // 2 :]}"


def _open(file: Path) -> IO[bytes]:
    """A file's content, decompressed. Its first bytes say what it is compressed with; a suffix must agree."""
    if suffix(file) in ARCHIVES or file.suffix.lower() in ARCHIVES:
        raise DataError(f"{file} is an archive; unpack it into a folder and name that")
    first = _begins(file, max(map(len, COMPRESSED.values())))
    named = file.suffix.lower()
    if named in COMPRESSED and not first.startswith(COMPRESSED[named]):
        raise DataError(
            f"{file} is named {named} but is not compressed so: {_looks(first)}; rename or fetch it again"
        )
    kinds = [kind for kind, magic in COMPRESSED.items() if first.startswith(magic)]
    match named if named in COMPRESSED else "".join(kind for kind in kinds if kind != ".bz2"):
        case ".gz":
            return gzip.open(file)  # type: ignore[return-value]
        case ".bz2":
            return bz2.open(file)  # type: ignore[return-value]
        case ".xz":
            return lzma.open(file)  # type: ignore[return-value]
        case ".zst":
            return _open_zst(file)
    return file.open("rb")


def _open_zst(file: Path) -> IO[bytes]:
    try:
        import pyarrow
    except ImportError:
        raise DataError(
            f"{file} is compressed with zstd, which takes a package that is missing: pip install pyarrow"
        ) from None
    return pyarrow.input_stream(str(file), compression="zstd")


def _begins(file: Path, length: int = 2) -> bytes:
    with file.open("rb") as content:
        return content.read(length)


def _looks(first: bytes) -> str:
    if not first:
        return "it is empty"
    known = {"parquet": b"PAR1", **{kind.removeprefix("."): magic for kind, magic in COMPRESSED.items()}}
    return next(
        (f"it begins like {name}" for name, magic in known.items() if first.startswith(magic)),
        "its first bytes are others",
    )
