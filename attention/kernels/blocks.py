"""Weights by blocks of rows, for those who look at them: by the row functions of the form, or by the formula."""

from collections.abc import Iterator

from attention.core.inputs import AttentionInputs
from attention.forms.chunked import Chunked
from attention.kernels import chunked, tiled
from attention.kernels.tiled import Block


def blocks(inputs: AttentionInputs) -> Iterator[Block]:
    """The weights of a call, block by block."""
    if inputs.vacant:
        return iter(())
    return (chunked if isinstance(inputs.mechanism, Chunked) else tiled).blocks(inputs)


def parts(inputs: AttentionInputs) -> list[AttentionInputs]:
    """The call as sequences whose rows fall into blocks alike, whatever the batch."""
    if inputs.vacant:
        return [inputs]
    return inputs.split(1) if isinstance(inputs.mechanism, Chunked) else tiled.parts(inputs)
