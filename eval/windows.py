"""Windows of held-out text: which tokens an analysis sees, and how it says so."""

import math
from bisect import bisect_right
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from eval.subjects.base import Subject
from models import ModelError

BORDERS = (
    "a token that begins a document, the end of the one before, is no target; attention sees the documents before it "
    "in the window"
)
"""The note that a protocol has on windows over joined documents."""


@dataclass(frozen=True)
class Windows:
    """Token windows of one length.

    Attributes:
        tokens: int64 [N, T], the first column a beginning-of-document token where `protocol["bos"]`.
        text_tokens: how many of them are text and not beginning-of-document tokens.
        bytes: UTF-8 bytes of that text.
        protocol: how the windows were cut, for the result file.
    """

    tokens: Tensor
    text_tokens: int
    bytes: int
    protocol: dict[str, Any]

    @property
    def documents(self) -> list[int]:
        """Number of the document that each window begins in. Windows of one document are not independent."""
        return self.protocol["document_of_window"]

    def bits_per_byte(self, loss: float) -> float:
        """A loss in nats per token of text of these windows in bits per byte of it."""
        return loss * self.text_tokens / math.log(2) / self.bytes


def cut(
    subject: Subject,
    length: int,
    count: int,
    *,
    bos: bool = True,
    overlap: bool = False,
    least: int | None = None,
    documents: list[list[int]] | None = None,
) -> Windows:
    """Cut up to `count` windows of `length` tokens from the held-out text, evenly spread.

    Windows lie inside single documents where the documents have room for them; otherwise the documents are joined, with
    a beginning-of-document token between them, which no loss may count (`targets`). Where the text has no more, fewer
    windows come back. The protocol says which it was.

    Args:
        subject: whose text and tokenizer to use.
        length: tokens of a window, the beginning-of-document token included.
        count: windows wanted.
        bos: begin each window with a beginning-of-document token, where the model has one.
        overlap: let windows overlap where the text has less than `count` disjoint ones.
        least: disjoint windows inside documents with which to be content, by default `count`.
        documents: token ids of other text to cut from.

    Raises:
        ModelError: the text has not one window.
    """
    prefix = [subject.bos] if bos and subject.bos is not None else []
    body = length - len(prefix)
    if body < 1 or count < 1:
        raise ModelError(f"need at least one window of two tokens, got {count} of {length}")
    what = "held-out text" if documents is None else "text to calibrate on"
    documents = subject.token_documents if documents is None else documents
    stream, starts = _join(documents, subject.bos)
    joined = [stream]
    attempts = [(documents, body, least or count), (joined, body, 1)]
    if overlap:
        attempts = [(documents, body, count), (documents, 1, count), (joined, 1, 1)]
    for streams, stride, enough in attempts:
        slots = [
            (number, start)
            for number, stream in enumerate(streams)
            for start in range(0, len(stream) - body + 1, stride)
        ]
        if len(slots) >= enough:
            break
    else:
        raise ModelError(
            f"the {what} of {subject.name} has {len(joined[0])} tokens, too few for one window of {length}"
        )
    count = min(count, len(slots))
    chosen = [slots[index * len(slots) // count] for index in range(count)]
    texts = [streams[number][start : start + body] for number, start in chosen]
    begun = [number for number, _ in chosen]
    if streams is joined:
        begun = [bisect_right(starts, start) - 1 for _, start in chosen]
    plain = [[id for id in text if id != subject.bos] for text in texts]
    return Windows(
        torch.tensor([prefix + text for text in texts]),
        sum(map(len, plain)),
        sum(len(subject.decode(text).encode()) for text in plain),
        {
            "length": length,
            "windows": count,
            "tokens": count * length,
            "bos": bool(prefix),
            "documents_joined": streams is joined,
            "overlapping": stride < body,
            "document_of_window": begun,
            **({"borders": BORDERS} if streams is joined else {}),
        },
    )


def targets(subject: Subject, tokens: Tensor) -> Tensor:
    """A mask of the tokens that a loss counts among those behind the first, bool [..., T - 1] for tokens [..., T].

    All but those that begin a document. They say that the one before has ended, which some models have learned and
    others have not; what is measured is the text, here as in the validation of training.
    """
    following = tokens[..., 1:]
    return torch.ones_like(following, dtype=torch.bool) if subject.bos is None else following != subject.bos


def obstacle(subject: Subject, length: int) -> str | None:
    """The reason why the network cannot be run on `length` positions; None if it can."""
    if subject.max_length is not None and length > subject.max_length:
        return f"the model is limited to {subject.max_length} positions"
    return None


def _join(documents: list[list[int]], separator: int | None) -> tuple[list[int], list[int]]:
    """The documents as one, a token between two, and where each begins, that token included."""
    between = [] if separator is None else [separator]
    stream: list[int] = []
    starts = []
    for document in documents:
        starts.append(len(stream))
        stream += (between if stream else []) + document
    return stream, starts
