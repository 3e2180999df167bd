"""One step of writing text: the logits of the token that follows, as the model computes them or compiled as a whole.

A step of a small model is mostly the calling of operations, some two hundred per layer. Compiled, it is its
products, its attention and a few loops.
"""

from collections.abc import Callable
from functools import cache

import torch
from torch import Tensor

from models.cache import KVCache
from models.gpt import GPT

Step = Callable[[GPT, Tensor, Tensor | None, KVCache], Tensor]
"""Model, tokens [B, T] behind those in the cache, their documents, cache; to `following`."""

VARIANTS = 64
"""Compiled steps kept in a process: of other models, other masks, a cache that is full."""


def following(model: GPT, tokens: Tensor, documents: Tensor | None, kept: KVCache) -> Tensor:
    """Logits [B, pieces] of the token behind the last one; no id without a piece is among them."""
    last = model.hidden(tokens, documents=documents, cache=kept)[:, -1]
    return model.logits(last)[:, : model.pieces]


@cache
def compiled() -> Step:
    """`following` through `torch.compile`, which is done at the first call for a model: a minute or so."""
    # Lengths stay open, or every token would be compiled anew.
    step = torch.compile(following, dynamic=True)

    def call(model: GPT, tokens: Tensor, documents: Tensor | None, kept: KVCache) -> Tensor:
        with torch._dynamo.config.patch(recompile_limit=VARIANTS):
            return step(model, tokens, documents, kept)

    return call
