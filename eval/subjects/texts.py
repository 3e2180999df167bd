"""The held-out text of the corpus that a config names."""

from pathlib import Path
from typing import Any

from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException

from data import DataConfig, Prepared, prepare
from models import ModelError


def corpus(section: dict[str, Any], origin: str = "the config") -> tuple[str, Prepared]:
    """Name and content of the corpus that a data section describes; `origin` names where it stands.

    Raises:
        DataError: it cannot be had.
    """
    try:
        config = OmegaConf.to_object(OmegaConf.merge(OmegaConf.structured(DataConfig), section))
    except OmegaConfBaseException as error:
        reason = str(error).splitlines()[0]
        raise ModelError(f"the data section of {origin} cannot be used: {reason}") from error
    assert isinstance(config, DataConfig)
    what = (Path(config.path).name if config.path else None) or config.dataset or config.subset or config.task
    return f"{config.corpus}{f' ({what})' if what else ''}", prepare(config)


def held_out(source: str, prepared: Prepared) -> tuple[str, list[str]]:
    """Name and held-out documents of a corpus."""
    return f"{source}, held-out documents", prepared.valid_documents()
