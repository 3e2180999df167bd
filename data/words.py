"""Text is encoded word by word where that gives the ids of the whole text, each word once.

It does for byte-pair encoding without normalisation whose pieces hold a space or a line break at their beginning alone:
no merge reaches over one, so the merges of a word do not depend on its neighbours. Unigram does not qualify: ties
between sums of probabilities are decided by the rounding of what stands before.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

from sentencepiece import sentencepiece_model_pb2

messages: Any = sentencepiece_model_pb2
"""Generated code, whose names no type checker sees."""
MOST = 1 << 18
"""Words that are remembered; before they are more, all are forgotten."""
AT_ONCE = 1 << 20
"""Characters of a text whose words are held in memory at once."""
GAP = "\0"
"""Put between words; a text that holds it is encoded as a whole."""
SPACE = "\u2581"
"""SentencePiece writes a space as this character, and would read the character as a space."""


class Words:
    """The ids of the words that were met, as bytes."""

    def __init__(self, encode: Callable[[Sequence[str]], list[bytes]]) -> None:
        """`encode` gives the ids of some words as bytes."""
        self._encode = encode
        self._known: dict[str, bytes] = {}

    def encode(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text as bytes; none holds `GAP`, nor the sign for a space."""
        if any(len(text) > AT_ONCE for text in texts):
            return [b"".join(self._encode_some([part])[0] for part in cut(text)) for text in texts]
        return self._encode_some(texts)

    def _encode_some(self, texts: Sequence[str]) -> list[bytes]:
        words = [text.replace(" ", f"{GAP} ").replace("\n", f"{GAP}\n{GAP}").split(GAP) for text in texts]
        met: set[str] = set().union(*words)
        new = list(met.difference(self._known))
        if len(self._known) + len(new) > MOST:
            self._known, new = {}, list(met)
        self._known.update(zip(new, self._encode(new), strict=True))
        return [b"".join(map(self._known.__getitem__, some)) for some in words]

    def __len__(self) -> int:
        return len(self._known)


def cut(text: str) -> Iterator[str]:
    """A text in parts of about `AT_ONCE` characters, each but the first with a space at its beginning."""
    begin = 0
    while begin < len(text):
        end = text.find(" ", begin + AT_ONCE)
        end = len(text) if end < 0 else end
        yield text[begin:end]
        begin = end


def by_words(model: bytes) -> bool:
    """Whether the ids of a text are those of its words under a SentencePiece model."""
    message = messages.ModelProto.FromString(model)
    normal = message.normalizer_spec
    plain = (
        not (normal.precompiled_charsmap or normal.remove_extra_whitespaces or normal.add_dummy_prefix)
        and normal.escape_whitespaces
    )
    kinds = messages.ModelProto.SentencePiece
    return (
        plain
        and message.trainer_spec.model_type in (messages.TrainerSpec.BPE, messages.TrainerSpec.CHAR)
        and not any(piece.type == kinds.UNUSED for piece in message.pieces)
        and not any(SPACE in piece.piece[1:] for piece in message.pieces)
        and not any("\n" in piece.piece and piece.piece != "\n" for piece in message.pieces)
    )
