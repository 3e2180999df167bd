"""The corpus cache and the files that it is made from.

Of a prepared corpus, each file of each cached folder is damaged: a byte flipped, the end cut off, emptied, removed,
replaced by garbage, by well-formed JSON or arrays of other types, by a pickle, by a folder, by the same file of another
corpus; whole folders are emptied and swapped. Survived: the same tokens and text as before, or one line that says what
to do. Then a user's files of every format that is read, and tokenizers, damaged at random places: survived is one line
that names the file, or the right text; plain text has no checksum, so a flipped letter is read as it stands.
"""

import bz2
import gzip
import io
import json
import lzma
import pickle
import random
import shutil
import tempfile
import warnings
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet

from common.errors import InputError
from data import DataConfig, Prepared, TokenizerConfig, prepare
from data.choice import corpus_of
from data.corpora import documents, open_corpus
from tests.reliability.trial import Trial

COUNT, FEW = 600, 60
TEXTS = [f"document {number} has {number * number} letters\n\tand a \u00e9\n" for number in range(40)]
FOLDERS = ("text", "tokenizer", "shards")
Damage = Callable[[bytes, random.Random], bytes | None]


def flip(content: bytes, chance: random.Random) -> bytes:
    """One bit of one byte."""
    place = chance.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << chance.randrange(8)]) + content[place + 1 :]


def array(values: Any) -> bytes:
    """A .npy file; of objects it is a pickle."""
    file = io.BytesIO()
    np.save(file, np.array(values), allow_pickle=True)
    return file.getvalue()


DAMAGES: dict[str, Damage] = {
    "one bit flipped": flip,
    "cut": lambda content, chance: content[: chance.randrange(len(content))],
    "emptied": lambda content, chance: b"",
    "removed": lambda content, chance: None,
    "garbage": lambda content, chance: chance.randbytes(len(content)),
    "JSON of another shape": lambda content, chance: chance.choice(
        [
            b"{}",
            b"[]",
            b"null",
            b'{"files": {}}',
            b'{"files": {}, "seal": 3}',
            b"[" * 5000,
            b'{"fingerprints": 1}',
        ]
    ),
    "an array of another shape, or a pickle": lambda content, chance: chance.choice(
        [array(3), array([[1.5]]), array([{}]), pickle.dumps([1]), array(["a"]), array([[-1, 10**12]])]
    ),
}
COMPRESS: dict[str, Callable[[bytes], bytes]] = {
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: pyarrow.Codec("zstd").compress(content, asbytes=True),
}
UNCHECKED = ("a.txt", "a.jsonl", ".zst", ".parquet", ".arrow")
"""Formats that carry no checksum, or none as written here: what is read from a damaged one may be another text."""


def trials(count: int, seed: int) -> Iterator[Trial]:
    """Half of the trials damage the cache, half a user's files."""
    chance = random.Random(seed)
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        yield from _of_the_cache(world, count // 2, chance)
        yield from _of_files(world, count - count // 2, chance)


def _of_the_cache(world: Path, count: int, chance: random.Random) -> Iterator[Trial]:
    config, other = _config(world / "mine.jsonl", TEXTS), _config(world / "other.jsonl", TEXTS[:20])
    whole, cache = world / "whole", world / "cache"
    right, strange = _content(prepare(config, whole)), world / "strange"
    prepare(other, strange)
    files = sorted(
        file.relative_to(whole) for file in whole.rglob("*") if file.is_file() and file.suffix != ".lock"
    )
    plan = [
        (file, what) for file in files for what in (*DAMAGES, "a folder in its place", "of another corpus")
    ]
    plan += [
        (Path(f"{kind}-"), what) for kind in FOLDERS for what in ("emptied", "swapped", "a file in its place")
    ]
    chance.shuffle(plan)
    for number in range(count):
        file, what = plan[number % len(plan)]
        shutil.rmtree(cache, ignore_errors=True)
        shutil.copytree(whole, cache)
        _harm(cache, strange, file, what, chance)
        said, failure = _tried(lambda: _content(prepare(config, cache)), right)
        name = file.name if file.suffix else f"{file.name.partition('-')[0]}/"
        yield Trial(
            f"cache: {what}", f"{file.parent.name.partition('-')[0]} {name}, trial {number}", said, failure
        )


def _harm(cache: Path, strange: Path, file: Path, what: str, chance: random.Random) -> None:
    """Damage one file, or one folder, of a cache."""
    if file.suffix == "":
        (folder,) = (path for path in cache.glob(f"{file}*") if path.is_dir())
        shutil.rmtree(folder)
        if what == "emptied":
            folder.mkdir()
        elif what == "swapped":
            shutil.copytree(next(path for path in strange.glob(f"{file}*") if path.is_dir()), folder)
        else:
            folder.write_text("a file")
        return
    target = cache / file
    before = target.read_bytes()
    target.unlink()
    if what == "a folder in its place":
        target.mkdir()
    elif what == "of another corpus":
        target.write_bytes(
            next(strange.glob(f"{file.parts[0].partition('-')[0]}-*/{file.name}")).read_bytes()
        )
    elif (after := DAMAGES[what](before, chance)) is not None:
        target.write_bytes(after)


def _of_files(world: Path, count: int, chance: random.Random) -> Iterator[Trial]:
    lines = "".join(json.dumps({"text": text}) + "\n" for text in TEXTS).encode()
    whole = {"a.txt": "".join(TEXTS).encode(), "a.jsonl": lines}
    whole |= {f"a{kind}{suffix}": compress(content) for kind, content in (("s.txt", whole["a.txt"]), ("s.jsonl", lines))
              for suffix, compress in COMPRESS.items()}  # fmt: skip
    table = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.table({"text": TEXTS}), table, row_group_size=10)
    whole["a.parquet"] = table.getvalue()
    datasets.disable_progress_bars()
    datasets.Dataset.from_dict({"text": TEXTS}).save_to_disk(world / "saved")
    for file in (world / "saved").iterdir():
        whole[f"saved/{file.name}"] = file.read_bytes()
    model = prepare(_config(world / "mine.jsonl", TEXTS), world / "whole").tokenizer.model
    whole["own.model"] = model
    names = sorted(whole)
    for number in range(count):
        name = names[number % len(names)]
        what = list(DAMAGES)[number // len(names) % len(DAMAGES)]
        place = world / "user"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        if name.startswith("saved/"):
            shutil.copytree(world / "saved", place / "saved")
        (place / name).unlink(missing_ok=True)
        if (after := DAMAGES[what](whole[name], chance)) is not None:
            (place / name).write_bytes(after)
        right = ["".join(TEXTS)] if ".txt" in name else TEXTS
        unchecked = name.endswith(UNCHECKED) or name.endswith(".json")
        if name == "own.model":
            tokenizer = TokenizerConfig(path=str(place / name))
            config = DataConfig(corpus="jsonl", path=str(world / "mine.jsonl"), tokenizer=tokenizer)
            said, failure = _tried(lambda: _survives(prepare(config, world / "tokenized")), True)  # noqa: B023
        else:
            path = str(place / name.partition("/")[0])
            said, failure = _tried(lambda: _read(path), None if unchecked else right)  # noqa: B023
        kind = "tokenizer" if name == "own.model" else "text"
        yield Trial(f"{kind} of a user: {what}", f"{name}, trial {number}", said, failure)


def _config(path: Path, texts: list[str]) -> DataConfig:
    path.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return DataConfig(corpus="jsonl", path=str(path), tokenizer=TokenizerConfig(vocab_size=300))


def _content(prepared: Prepared) -> object:
    texts = [list(prepared.text.documents(split)) for split in ("train", "valid")]
    return prepared.fingerprint, [shard.tokens.tolist() for shard in (prepared.train, prepared.valid)], texts


def _read(path: str) -> list[str]:
    return [
        document.text for document in documents(open_corpus(DataConfig(corpus=corpus_of(path), path=path)))
    ]


def _survives(prepared: Prepared) -> bool:
    return all(prepared.tokenizer.decode(prepared.tokenizer.encode(text)) == text for text in TEXTS)


def _tried(action: Callable[[], object], right: object) -> tuple[str, str]:
    """How something ended, and what is wrong with that; whatever it gives is right where `right` is None."""
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter("always")
        try:
            got = action()
        except InputError as error:
            return (
                ("refused in one line", "") if "\n" not in str(error) else ("", f"many lines: {str(error)!r}")
            )
        except Exception as error:
            return "", f"{type(error).__name__}: {error}"[:200].replace("\n", " ")
    if right is None:
        return "read as it stands", ""
    if got != right:
        return "", "another text or other tokens, without a word"
    rebuilt = any("was built again" in str(warning.message) for warning in said)
    return ("built again, with a warning" if rebuilt else "right"), ""
