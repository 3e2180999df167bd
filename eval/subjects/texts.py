"""The text of an evaluation: that of the corpus that a config names, or of a file, folder or corpus by name."""

import os
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from common.errors import nearest
from data import DataConfig, Prepared, prepare
from data.choice import corpus_of
from data.corpora import CORPORA, documents, open_corpus
from models import ModelError


def corpus(section: dict[str, Any]) -> tuple[str, Prepared]:
    """Name and content of the corpus that a data section describes.

    Raises:
        DataError: it cannot be had.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), section))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the data section of the config cannot be used: {reason}") from error
    assert isinstance(config, DataConfig)
    what = (Path(config.path).name if config.path else None) or config.dataset or config.subset or config.task
    return f"{config.corpus}{f' ({what})' if what else ''}", prepare(config)


def held_out(source: str, prepared: Prepared) -> tuple[str, list[str]]:
    """Name and held-out documents of a corpus."""
    return f"{source}, held-out documents", prepared.valid_documents()


def read_text(text: str, field: str = DataConfig.field) -> tuple[str, list[str]]:
    """Whatever training reads, too: the documents of a file or folder, or a corpus's held-out ones by its name."""
    if text in CORPORA and not Path(text).exists():
        return held_out(*corpus({"corpus": text}))
    if not Path(text).suffix and len(Path(text).parts) == 1 and not os.path.lexists(text):
        raise ModelError(f"no file, folder or corpus is called {text}{nearest(text, CORPORA)}")
    config = DataConfig(corpus=corpus_of(text), path=text, field=field)
    kind = "folder" if Path(text).expanduser().is_dir() else "file"
    return f"{kind} {Path(text).name}", [document.text for document in documents(open_corpus(config))]
