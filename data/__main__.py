"""python -m data prepare [CONFIG.yaml] [key=value ...]: build a corpus and say what came out.

CONFIG.yaml is a config of training, of which the section `data` is read. Keys are those of that section, with its name
or without: `corpus=sotu data.tokenizer.vocab_size=4096`; a text is taken as typed, null is none. --keys lists them.
The cache is $ATTENTION_ZOO_CACHE, else attention-zoo in $XDG_CACHE_HOME or ~/.cache.
"""

import sys
import time

from common.command import guarded
from data.errors import DataError


def main() -> None:
    """Reads the command line, prepares, prints. DataError: an unknown command, option or value."""
    arguments = sys.argv[1:]
    if not arguments or {"-h", "--help"} & set(arguments):
        print(__doc__)
        return
    if "--keys" in arguments:
        from common.describe import described
        from data.config import DataConfig

        print(described(DataConfig))
        return
    if arguments[0] != "prepare":
        raise DataError(
            f"unknown command {arguments[0]!r}; usage: python -m data prepare [CONFIG.yaml] [key=value ...]"
        )
    from data import prepare
    from data.commandline import parse

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


if __name__ == "__main__":
    guarded(main)
