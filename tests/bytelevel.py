"""A small byte-level tokenizer, as models of others have one."""

from collections.abc import Iterable
from typing import Any

import pytest

END = "<|end|>"
"""Its only special token."""


def trained(texts: Iterable[str], size: int) -> Any:
    """A byte-level BPE of the `tokenizers` library."""
    library = pytest.importorskip("tokenizers")
    from tokenizers import decoders, models, pre_tokenizers, trainers

    fast = library.Tokenizer(models.BPE())
    fast.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    fast.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, special_tokens=[END], initial_alphabet=alphabet)
    fast.train_from_iterator(texts, trainer)
    return fast
