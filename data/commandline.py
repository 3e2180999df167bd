"""The options of a command line as a config of the data."""

from pathlib import Path
from typing import Any, cast

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from common.configs import chain
from common.errors import nearest
from data.choice import merged
from data.config import DataConfig
from data.errors import DataError
from data.options import read_option


def parse(arguments: list[str]) -> DataConfig:
    """The data of a YAML file, if one is named, with overrides: "tokenizer.vocab_size=4096", or as training has them,
    "data.tokenizer.vocab_size=4096".

    Raises:
        DataError, InputError: what does not parse.
    """
    files = [argument for argument in arguments if "=" not in argument]
    if len(files) > 1:
        raise DataError(f"one config is read, got {' and '.join(files)}; options must read key=value")
    layers = [_data_of(*file) for file in chain(Path(files[0]))] if files else []
    overrides = [argument.removeprefix("data.") for argument in arguments if "=" in argument]
    typed = [read_option(override, DataConfig)[1] for override in overrides]
    config = OmegaConf.structured(DataConfig)
    try:
        for sections in [*([layer] for layer in layers), typed]:
            config = merged(config, sections)
        return cast(DataConfig, OmegaConf.to_object(config))
    except ConfigKeyError as error:
        parent = error.parent_node if OmegaConf.is_dict(error.parent_node) else {}
        hint = nearest(str(error.key), map(str, parent))
        raise DataError(f"unknown option {error.full_key!r}{hint}") from None
    except OmegaConfBaseException as error:
        raise DataError(f"{error.full_key or 'options'}: {str(error).splitlines()[0]}") from None


def _data_of(source: str, values: dict[str, Any]) -> dict[str, Any]:
    """The section `data` of a file, empty where it has none. DataError: it is no section."""
    section = values.get("data") or {}
    if not isinstance(section, dict):
        raise DataError(f"{source}: 'data' is a section; set one of its keys, like data.corpus=...")
    return section
