"""A tokenizer of this project as one of the `tokenizers` library, which gives the same ids.

Pieces keep their ids, and a space is a space: SentencePiece writes it as ▁, and this project encodes the character ▁
itself as bytes, and a space that no piece has, which is what happens to a character that the vocabulary lacks. Texts
are not searched for special tokens: the characters "<s>" are characters.
"""

import itertools
import random
from collections.abc import Iterable, Iterator
from contextlib import suppress
from typing import Any

from tokenizers import AddedToken, decoders, models, pre_tokenizers, processors
from tokenizers import Tokenizer as Fast
from transformers import PreTrainedTokenizerFast

from data import Tokenizer
from data.bytelevel import is_bytelevel, original
from data.words import SPACE, by_words, messages
from models import ModelError

HOSTILE = (
    "",
    " ",
    "  two   spaces  ",
    " \t\n\r\n\n \u00a0\u2003\u3000\u200b\ufeff",
    "\x00\x01\x07\x1b[31m\x7f\x85",
    f"{SPACE}{SPACE} {SPACE}x {SPACE}",
    "<s></s><unk><0x41><0x0A>[INST]<|endoftext|>",
    "naïve café, cafe\u0301, ﬁ, Ⅻ, İı, ß",
    "日本語 العربية עברית हिन्दी 𝔘𝔫𝔦𝔠𝔬𝔡𝔢",
    "👩‍👩‍👧‍👦🏳️‍🌈🇺🇳 e\u0301\u0302\u0303 \u202eabc\u202c \ufffd\ufffe",
    "aaaaaaaaaa abababababa 111222 000 ... --- '''",
    "word\nword\n\n word \n word",
)
"""Texts that tell tokenizers apart: whitespace, control characters, the sign for a space, names of special tokens,
characters outside every vocabulary, repetitions."""

AT_ONCE = 512
"""Texts that are compared in one call."""


def exported(tokenizer: Tokenizer, max_length: int, generates_ends: bool) -> PreTrainedTokenizerFast:
    """The tokenizer for `AutoTokenizer`, compared with the original on hostile texts and on its own pieces.

    Args:
        tokenizer: byte-level, BPE or of characters, without a normaliser.
        max_length: positions of the model.
        generates_ends: whether the model ends documents, with the token that begins them.

    Raises:
        ModelError: one of another kind, or gives other ids somewhere.
    """
    bytelevel = is_bytelevel(tokenizer.model)
    fast = Fast.from_str(original(tokenizer.model)) if bytelevel else _of_pieces(tokenizer)
    fast.encode_special_tokens = True
    bos = fast.id_to_token(tokenizer.bos)
    fast.post_processor = processors.TemplateProcessing(
        single=f"{bos} $A", pair=f"{bos} $A {bos} $B", special_tokens=[(bos, tokenizer.bos)]
    )
    found = PreTrainedTokenizerFast(
        tokenizer_object=fast,
        bos_token=bos,
        unk_token=None if bytelevel else fast.id_to_token(tokenizer.unknown),
        pad_token=fast.id_to_token(padding(tokenizer)),
        eos_token=bos if generates_ends else None,
        model_max_length=max_length,
        split_special_tokens=True,
        clean_up_tokenization_spaces=False,
        padding_side="left",
    )
    compare(tokenizer, found, itertools.chain(HOSTILE, _mixtures(tokenizer)))
    return found


def padding(tokenizer: Tokenizer) -> int:
    """The id that fills up a batch: of unknown pieces, which no text has, or else that which begins a document."""
    return tokenizer.unknown if tokenizer.unknown >= 0 else tokenizer.bos


def compare(tokenizer: Tokenizer, other: PreTrainedTokenizerFast, texts: Iterable[str]) -> None:
    """Encode texts with both, and decode them again.

    Raises:
        ModelError: a text of which they make different ids, or which does not come back.
    """
    fast, waiting = other.backend_tokenizer, iter(texts)
    while batch := list(itertools.islice(waiting, AT_ONCE)):
        theirs = [found.ids for found in fast.encode_batch(batch, add_special_tokens=False)]
        for text, one, two in zip(batch, tokenizer.encode_all(batch), theirs, strict=True):
            if one != two:
                raise ModelError(
                    f"the exported tokenizer would encode {text[:40]!r} as {two[:12]}, not {one[:12]}"
                )
        for text, back in zip(batch, fast.decode_batch(theirs), strict=True):
            if back != text:
                raise ModelError(f"the exported tokenizer would give {text[:40]!r} back as {back[:40]!r}")


def _of_pieces(tokenizer: Tokenizer) -> Fast:
    """A SentencePiece model for the `tokenizers` library."""
    message = messages.ModelProto.FromString(tokenizer.model)
    normal, kinds = message.normalizer_spec, messages.ModelProto.SentencePiece
    if normal.precompiled_charsmap or normal.remove_extra_whitespaces or not normal.escape_whitespaces:
        raise ModelError("this tokenizer changes text before it encodes it, which the export cannot do alike")
    if any(piece.type == kinds.UNUSED for piece in message.pieces):
        raise ModelError("this tokenizer has unused pieces, which the export cannot treat alike")
    fast = Fast(_model(message))
    own = [piece.piece for piece in message.pieces if piece.type == kinds.USER_DEFINED]
    fast.add_tokens([AddedToken(piece, normalized=False) for piece in own])
    special = [message.pieces[id].piece for id in (tokenizer.unknown, tokenizer.bos)]
    fast.add_special_tokens([AddedToken(piece, special=True, normalized=False) for piece in special])
    if by_words(tokenizer.model):
        fast.pre_tokenizer = pre_tokenizers.Split(" ", "merged_with_next")
    fast.decoder = decoders.Sequence([decoders.ByteFallback(), decoders.Fuse()])
    return fast


def _model(message: Any) -> models.Model:
    """The vocabulary, and what is merged in which order."""
    kinds, trainer = messages.ModelProto.SentencePiece, message.trainer_spec
    names = [piece.piece.replace(SPACE, " ") for piece in message.pieces]
    unknown = next(piece.piece for piece in message.pieces if piece.type == kinds.UNKNOWN)
    if trainer.model_type not in (messages.TrainerSpec.BPE, messages.TrainerSpec.CHAR):
        raise ModelError(
            "a unigram tokenizer cannot be exported: the tokenizers library breaks ties otherwise; take kind bpe"
        )
    vocabulary = {name: id for id, name in enumerate(names)}
    scores = {
        name: piece.score
        for name, piece in zip(names, message.pieces, strict=True)
        if piece.type == kinds.NORMAL
    }
    merges = [] if trainer.model_type == messages.TrainerSpec.CHAR else _merges(scores)
    return models.BPE(vocabulary, merges, unk_token=unknown, byte_fallback=True, fuse_unk=False)


def _merges(scores: dict[str, float]) -> list[tuple[str, str]]:
    """Every pair of pieces that makes a third, the best third first; of one third, the longest left part first.

    SentencePiece merges the pair whose piece scores best, the leftmost of several. Here pairs are in one order, so two
    ways to make one piece are never alike; the longer left part is the one that lies further left where both fit.
    """
    pairs = [
        (-score, -cut, name[:cut], name[cut:])
        for name, score in scores.items()
        for cut in range(1, len(name))
        if name[:cut] in scores and name[cut:] in scores
    ]
    return [(left, right) for *_, left, right in sorted(pairs)]


def _mixtures(tokenizer: Tokenizer) -> Iterator[str]:
    """Texts of pieces in random order, each once and many beside many others; the same in every call."""
    pieces = []
    for content in tokenizer.piece_bytes():
        with suppress(UnicodeDecodeError):
            pieces.append(content.decode())
    chance = random.Random(0)
    for size in (1, 2, 3, 8, 64):
        chance.shuffle(pieces)
        for start in range(0, len(pieces), size):
            yield "".join(pieces[start : start + size])
    letters = sorted(set("".join(pieces)))
    for _ in range(200):
        yield "".join(chance.choices(letters, k=60))
