"""python -m data prepare [option=value ...]: build a corpus and say what came out.

Options are those of DataConfig, e.g. `corpus=sotu tokenizer.vocab_size=4096`; a text is taken as typed, null is none.
The cache is $ATTENTION_ZOO_CACHE, else attention-zoo in $XDG_CACHE_HOME or ~/.cache.
"""

import sys
import time
from typing import cast

from omegaconf import OmegaConf
from omegaconf.errors import ConfigKeyError, OmegaConfBaseException

from command import guarded
from data import DataConfig, DataError, prepare
from data.choice import consequences
from data.errors import nearest
from data.options import read_option


def main() -> None:
    """Reads the command line, prepares, prints. DataError: an unknown command, option or value."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if arguments[0] != "prepare":
        raise DataError(f"unknown command {arguments[0]!r}; usage: python -m data prepare [option=value ...]")
    began = time.monotonic()
    config = parse(arguments[1:])
    prepared = prepare(config)
    seconds = time.monotonic() - began
    for split, shard in (("train", prepared.train), ("valid", prepared.valid)):
        print(
            f"{split}  {len(shard):>9,} documents {shard.n_bytes:>13,} bytes {shard.n_tokens:>12,} tokens"
            f"  {prepared.bytes_per_token(split):.3f} bytes/token"
        )
    print(f"vocabulary {prepared.tokenizer.vocab_size:,}  fingerprint {prepared.fingerprint}")
    print(f"{config.corpus}: ready in {seconds:.1f} s; {prepared.text.duplicates} duplicates dropped")
    if prepared.text.cut:
        print("one text: its end is held out")


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


if __name__ == "__main__":
    guarded(main)
