"""Prepare data before a run, and look after what is kept of it.

  python -m data prepare [CONFIG.yaml] [key=value ...] [--workers N]     build a corpus, and say what came out
  python -m data check                                                   read all of the cache, remove what is damaged

CONFIG.yaml is a config of training, of which the section `data` is read. Keys are those of that section, with its name
or without: `corpus=sotu data.tokenizer.vocab_size=4096`; a text is taken as typed, null is none. --keys lists them.
A preparation that was stopped or killed goes on where it was when it is called again. The cache is
$ATTENTION_ZOO_CACHE, else attention-zoo in $XDG_CACHE_HOME or ~/.cache.
"""

import argparse
import os
import shutil
import time
from collections.abc import Iterator
from typing import TYPE_CHECKING

from common.command import Parser, guarded
from common.files import cache_root
from data.errors import DataError

if TYPE_CHECKING:
    from data.shards import Shard


def main() -> None:
    """Read the command line and do what it says."""
    parser = Parser(
        prog="python -m data",
        usage=argparse.SUPPRESS,
        description=__doc__,
        formatter_class=argparse.RawTextHelpFormatter,
    )
    parser.add_argument("command", nargs="?", choices=("prepare", "check"), help=argparse.SUPPRESS)
    parser.add_argument("options", nargs="*", help=argparse.SUPPRESS)
    parser.add_argument(
        "--workers", type=int, help="processes that read and encode; as many as there are cores"
    )
    parser.add_argument("--keys", action="store_true", help="list all keys, and leave")
    arguments = parser.parse_intermixed_args()
    if arguments.keys:
        from common.describe import described
        from data.config import DataConfig

        print(described(DataConfig))
    elif arguments.command == "prepare":
        _prepare(arguments.options, arguments.workers)
    elif arguments.command == "check":
        _check()
    else:
        parser.print_help()


def _prepare(options: list[str], workers: int | None) -> None:
    from common.memory import peak_memory
    from data import prepare
    from data.commandline import parse
    from data.workers import WORKERS

    began = time.monotonic()
    config = parse(options)
    if workers is not None:
        os.environ[WORKERS] = str(workers)
    prepared = prepare(config)
    seconds = time.monotonic() - began
    shards = {"train": prepared.train, "valid": prepared.valid}
    for split, shard in shards.items():
        print(
            f"{split}  {len(shard):>9,} documents {shard.n_bytes:>13,} bytes {shard.n_tokens:>12,} tokens"
            f"  {prepared.bytes_per_token(split):.3f} bytes/token"
        )
    for line in mixture(prepared.train):
        print(line)
    print(f"vocabulary {prepared.tokenizer.vocab_size:,}  fingerprint {prepared.fingerprint}")
    size = sum(shard.n_bytes for shard in shards.values()) / 1e6
    print(
        f"{config.corpus}: ready in {seconds:.1f} s ({size / seconds:.1f} MB/s, peak memory {peak_memory():.0f} MiB); "
        f"{prepared.text.duplicates} duplicates dropped"
    )
    if prepared.text.cut:
        print("one text: its end is held out")


def mixture(shard: "Shard") -> Iterator[str]:
    """What the weights of a mixture come to, a line for each source."""
    total = sum(source.weight for source in shard.mixed)
    tokens, first = [], 0
    for source in shard.mixed:
        tokens.append(int(shard.sizes[first : first + source.documents].sum()))
        first += source.documents
    pace = [source.weight / count for source, count in zip(shard.mixed, tokens, strict=True)]
    for source, count, speed in zip(shard.mixed, tokens, pace, strict=True):
        largest = shard.mixed[pace.index(min(pace))].name
        often = f"gone through {speed / min(pace):.1f} times in one pass over {largest}"
        yield f"  {source.name}: {count:,} tokens, {source.weight / total:.1%} of what is trained on, {often}"


def _check() -> None:
    from data.cache import damaged

    root, found = cache_root(), 0
    for folder, damage in damaged(root):
        if damage is None:
            print(f"{folder.name}  whole")
            continue
        shutil.rmtree(folder)
        found += 1
        print(f"{folder.name}  {damage}: removed, it is built again when it is used")
    if found:
        raise DataError(f"{found} folders of {root} were damaged")


if __name__ == "__main__":
    guarded(main)
