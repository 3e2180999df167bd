"""The options of a command line as a config of the data."""

from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from common.errors import nearest
from data.choice import consequences
from data.config import DataConfig
from data.errors import DataError
from data.options import read_option


def parse(overrides: list[str]) -> DataConfig:
    """A config from dotted overrides such as "tokenizer.vocab_size=4096". DataError: what does not parse."""
    values = [read_option(override, DataConfig)[1] for override in overrides]
    typed = {key: value for section in values for key, value in section.items()}
    try:
        default = OmegaConf.structured(DataConfig)
        merged = OmegaConf.merge(default, consequences(default, typed), *values)
        return cast(DataConfig, OmegaConf.to_object(merged))
    except ConfigKeyError as error:
        parent = error.parent_node if OmegaConf.is_dict(error.parent_node) else {}
        hint = nearest(str(error.key), map(str, parent))
        raise DataError(f"unknown option {error.full_key!r}{hint}") from None
    except OmegaConfBaseException as error:
        raise DataError(f"{error.full_key or 'options'}: {str(error).splitlines()[0]}") from None
