"""Which corpus reads a file or folder, and what a data section changes in the one that it builds on."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.configs import misread
from common.ranges import violation
from data.config import DataConfig
from data.corpora import CORPORA
from data.corpora.files import FileCorpus
from data.corpora.huggingface import is_saved
from data.corpora.reading import COMPRESSED, files_below, local_path, suffix
from data.errors import DataError

READERS = {name: corpus for name, corpus in CORPORA.items() if issubclass(corpus, FileCorpus)}
MANUALS = {".md"}
"""Text that often lies beside a corpus and is none of it."""


def corpus_of(path: str, preferred: str | None = None) -> str:
    """The corpus that reads a file or folder: what its suffix says, for a folder what those of its files say.

    Where that leaves a choice, it is `preferred`, and text for a file. DataError: there is no such file, a folder that
    several corpora could read, or none.
    """
    place = local_path(path)
    if is_saved(path):
        return "huggingface"
    if place.is_file():
        kind = suffix(place)
        if kind in (".csv", ".tsv"):
            example = f"corpus=huggingface dataset=csv path={path} field=COLUMN"
            raise DataError(f"{path} is a table; name the column of the text: {example}")
        return next(iter(_readers({kind})), preferred or "text")
    kinds = {suffix(file) for file in files_below(place)}
    names = _readers(kinds - MANUALS) or _readers(kinds)
    if preferred in _readers(kinds):
        return preferred
    if len(names) > 1:
        choices = " or ".join(f"corpus={name}" for name in names)
        raise DataError(f"{path} holds files of several kinds; say which to read: {choices}")
    if not names:
        known = ", ".join(one for reader in READERS.values() for one in reader.suffixes + reader.otherwise)
        raise DataError(
            f"{path} holds no text: no visible file is {known}, plain or compressed ({', '.join(COMPRESSED)})"
        )
    return names[0]


def consequences(inherited: Mapping[str, Any], section: Mapping[str, Any]) -> dict[str, Any]:
    """What a data section changes in the one that it builds on, beyond what it says itself.

    A path without a corpus decides the corpus. With another corpus, inherited options that only others have go back to
    their defaults; those that the section itself has stay, to be refused when the corpus is opened. DataError: the
    path decides nothing.
    """
    before, corpus, path = inherited.get("corpus"), section.get("corpus"), section.get("path")
    changed: dict[str, Any] = {}
    if corpus is None and path is not None and not _takes_files(inherited):
        reader = str(before) if before in READERS else None
        # What is not there is refused when the corpus is opened.
        there = os.path.exists(os.path.expanduser(str(path)))
        corpus = corpus_of(str(path), reader) if there else reader or "text"
        changed = {"corpus": corpus, "dataset": None, "dataset_name": None}
    elif corpus in CORPORA and corpus != before:
        changed = {"corpus": corpus}
    if changed:
        unused = {option for other in CORPORA.values() for option in other.options} - CORPORA[
            str(corpus)
        ].options
        changed |= {field.name: field.default for field in fields(DataConfig) if field.name in unused}
    return {name: value for name, value in changed.items() if name not in section}


def of_section(section: Mapping[str, Any], where: str) -> DataConfig:
    """The config that a section of `data` makes by itself. DataError: unknown keys, values of other types or ranges."""
    try:
        config = merged(OmegaConf.structured(DataConfig), [section], f"{where}.")
        found = cast(DataConfig, OmegaConf.to_object(config))
    except OmegaConfBaseException as error:
        raise DataError(f"{where}: {str(error).splitlines()[0]}") from None
    if problem := violation(found, f"{where}."):
        raise DataError(problem)
    return found


def merged(config: Any, sections: Sequence[Mapping[str, Any]], prefix: str = "") -> Any:
    """An OmegaConf config of the data with the keys of sections, and what follows from them.

    DataError: a value that OmegaConf would change; its name has the prefix.
    """
    for values in sections:
        if problem := misread(values, DataConfig, prefix):
            raise DataError(problem)
    section = {key: value for values in sections for key, value in values.items()}
    inherited = cast(dict[str, Any], OmegaConf.to_container(config))
    return OmegaConf.merge(config, consequences(inherited, section), *sections)


def _takes_files(section: Mapping[str, Any]) -> bool:
    """Whether a path is handed to a builder of the `datasets` library, such as "json"."""
    return section.get("corpus") == "huggingface" and "/" not in str(section.get("dataset") or "/")


def _readers(kinds: set[str]) -> list[str]:
    return [name for name, reader in READERS.items() if kinds & set(reader.suffixes)] or [
        name for name, reader in READERS.items() if kinds & set(reader.otherwise)
    ]


def located(config: DataConfig) -> DataConfig:
    """The same with whole paths instead of relative ones, so that they lead to the same files from every folder."""
    tokenizer = replace(config.tokenizer, path=whole(config.tokenizer.path))
    places: dict[str, Any] = {"path": whole(config.path), "tokenizer": tokenizer}
    if config.sources:
        places["sources"] = {name: _located_source(source) for name, source in config.sources.items()}
    return replace(config, **places)


def _located_source(source: Any) -> Any:
    return (
        source | {"path": whole(source["path"])} if isinstance(source, dict) and "path" in source else source
    )


def whole(path: str | None) -> str | None:
    """A path from the root; none, an empty one and an address stay as they are."""
    if not path or "://" in path:
        return path
    return os.path.abspath(os.path.expanduser(path))
