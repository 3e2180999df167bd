"""Padding and packed texts, as transformers writes them, in the numbers of documents that attention takes."""

import torch
from torch import Tensor

from models.errors import ModelError


def documents_of(
    attention_mask: Tensor | None, position_ids: Tensor | None, tokens: Tensor, past: int
) -> Tensor | None:
    """The number of the text that each new token belongs to, int64 [B, T]; -1 at padding; None: all are one text.

    Texts are counted from the last, so that what is generated after a row goes on with its last text, 0.

    Args:
        attention_mask: [B, past + T], 1 or 0.
        position_ids: int [B or 1, T].
        tokens: int [B, T].
        past: positions before these tokens.

    Raises:
        ModelError: a mask of another shape or with other values, or positions that leave some out.
    """
    visible = torch.ones_like(tokens, dtype=torch.bool)
    if attention_mask is not None:
        if attention_mask.shape != (tokens.shape[0], past + tokens.shape[1]):
            raise ModelError(
                f"attention_mask must be [batch, {past} earlier + {tokens.shape[1]} new tokens], 0 at padding, got "
                f"{list(attention_mask.shape)}; which keys a query sees is the model's own business"
            )
        if bool(((attention_mask != 0) & (attention_mask != 1)).any()):
            raise ModelError(
                "attention_mask must be 1 at text and 0 at padding; mark packed texts by position_ids"
            )
        visible = attention_mask[:, past:] != 0
    begins = torch.zeros_like(visible)
    if position_ids is not None:
        positions = position_ids.expand(tokens.shape)
        begins[:, 1:] = (positions[:, 1:] == 0) & visible[:, 1:]
        follows = positions[:, 1:] == positions[:, :-1] + 1
        if bool((visible[:, 1:] & visible[:, :-1] & ~follows & ~begins[:, 1:]).any()):
            raise ModelError("position_ids must go up by one, or begin again at 0 for another text")
    if bool(visible.all()) and not bool(begins.any()):
        return None
    number = begins.long().cumsum(1)
    return (number[:, -1:] - number).masked_fill(~visible, -1)
