"""SentencePiece, with settings under which text survives encoding and decoding byte for byte.

A byte-level tokenizer of a model that others trained serves, too (`data.bytelevel`).
"""

import hashlib
import io
import os
import re
from collections.abc import Iterable, Iterator, Sequence
from functools import cached_property
from itertools import accumulate, chain, compress
from operator import add, not_
from pathlib import Path
from typing import Any

import numpy as np
import sentencepiece

from common.errors import nearest
from data.bytelevel import ByteLevel, adopted, is_bytelevel
from data.config import TokenizerConfig
from data.errors import DataError
from data.words import GAP, SPACE, Words, by_words, messages

KINDS = ("bpe", "unigram", "char")
LONGEST_LINE = 1 << 16
SETTINGS: dict[str, Any] = {
    "character_coverage": 1.0,
    "byte_fallback": True,
    "normalization_rule_name": "identity",
    "remove_extra_whitespaces": False,
    "add_dummy_prefix": False,
    "user_defined_symbols": ["\n"],
    "split_digits": True,
    "max_sentence_length": 4 * LONGEST_LINE,
    "unk_id": 0,
    "bos_id": 1,
    "eos_id": -1,
    "pad_id": -1,
    "unk_surface": "\ufffd",
}
"""Lossless: no normalisation, no collapsed spaces, bytes for unknown characters. BOS separates, so no EOS."""
LOSSLESS = (
    "leave data.tokenizer.path out to train a lossless one, or train with spm_train --normalization_rule_name=identity "
    "--remove_extra_whitespaces=false --byte_fallback=true"
)
NO_DUMMY_PREFIX = b"\x1a\x02\x18\x00"
"""`normalizer_spec { add_dummy_prefix: false }` of a SentencePiece model: protobuf merges what follows a message."""


class LostTextError(DataError):
    """Text number `index` of several does not survive the tokenizer."""

    def __init__(self, index: int, text: str, back: str) -> None:
        self.index, self.text, self.back = index, text, back
        pairs = enumerate(zip(text, back, strict=False))
        begin = next((place for place, (one, other) in pairs if one != other), min(len(text), len(back)))
        here = slice(max(0, begin - 10), begin + 20)
        if begin == len(text) == len(back):
            what = f"{text[:30]!r} has a part without a piece of its own"
        else:
            what = f"{text[here]!r} comes back as {back[here]!r}"
        super().__init__(f"the tokenizer loses text: {what}; {LOSSLESS}")

    def __reduce__(self) -> tuple[type["LostTextError"], tuple[int, str, str]]:
        return LostTextError, (self.index, self.text, self.back)


class Tokenizer:
    """A SentencePiece or byte-level model with a BOS; its `fingerprint` is the hex sha256 of the model's bytes."""

    def __init__(self, model: bytes, source: str = "the model") -> None:
        """DataError: `model`, called `source` in the message, is no SentencePiece model or has no BOS."""
        if not model:
            raise DataError(f"{source} is not a SentencePiece model: it is empty")
        self._model: Any = ByteLevel(model, source) if is_bytelevel(model) else _sentencepiece(model, source)
        if self._model.vocab_size() == 0:
            raise DataError(f"{source} is not a SentencePiece model: it has no pieces")
        if self._model.bos_id() < 0:
            raise DataError(f"{source} has no BOS piece; every document begins with one")
        self.model = model
        self.vocab_size: int = self._model.vocab_size()
        self.bos: int = self._model.bos_id()
        self.unknown: int = self._model.unk_id()
        self.dtype = "uint16" if self.vocab_size <= 1 << 16 else "uint32"
        """That ids are stored in."""
        self.fingerprint = hashlib.sha256(model).hexdigest()

    def __reduce__(self) -> tuple[type["Tokenizer"], tuple[bytes]]:
        return Tokenizer, (self.model,)

    def encode(self, text: str, bos: bool = False) -> list[int]:
        """The ids of a text, BOS first if asked for."""
        return ([self.bos] if bos else []) + self.encode_all([text])[0]

    def encode_all(self, texts: Sequence[str], threads: int = -1) -> list[list[int]]:
        """The ids of each text, without BOS; on so many cores, or on all.

        LostTextError: a text that does not come back from them byte for byte, so that bits per byte would mean nothing.
        DataError: a text that UTF-8 cannot express.
        """
        try:
            ids: list[list[int]] = self._model.encode(texts, num_threads=threads)
        except TypeError:
            broken = next(text for text in texts if not _is_unicode(text))
            raise DataError(f"{broken[:60]!a} is no text: it holds bytes that are not UTF-8") from None
        for number, text in enumerate(texts):
            if any(sign in text for sign in self._as_bytes):
                ids[number] = self._encode_apart(text)
        decoded = self._model.decode(ids, num_threads=threads)
        for number, (text, found, back) in enumerate(zip(texts, ids, decoded, strict=True)):
            if back != text or self.unknown in found or self.bos in found:
                raise LostTextError(number, text, back)
        return ids

    def encode_packed(self, texts: Sequence[str]) -> list[bytes]:
        """The ids of each text as an array of `dtype`, in bytes; on one core, and each word once where that will do.

        Raises as `encode_all`.
        """
        by_word = [self._words is not None and GAP not in text and SPACE not in text for text in texts]
        try:
            whole = iter(self._pack(list(compress(texts, map(not_, by_word)))))
            words = iter(() if self._words is None else self._words.encode(list(compress(texts, by_word))))
        except LostTextError:
            # Once more, to say of which text it is.
            self.encode_all(texts)
            raise
        return [next(words if chosen else whole) for chosen in by_word]

    def decode(self, ids: Iterable[int]) -> str:
        """The text of some ids; BOS has none. DataError: an id outside the vocabulary."""
        text: str = self._model.decode(self._checked(ids))
        return text

    def pieces(self, ids: Iterable[int]) -> list[str]:
        """One label per id, for an axis or a table: ▁ is a space, ↵ a line break, <0xE2> a byte, <s> BOS."""
        return [piece.replace("\n", "↵") for piece in self._model.id_to_piece(self._checked(ids))]

    def piece_bytes(self) -> list[bytes]:
        """The bytes that each id stands for; none for BOS and other control pieces."""
        if isinstance(self._model, ByteLevel):
            return [self._model.bytes_of(id) for id in range(self.vocab_size)]
        found = []
        for id in range(self.vocab_size):
            piece = self._model.id_to_piece(id)
            if self._model.is_byte(id):
                found.append(bytes([int(piece[1:-1], 16)]))
            else:
                found.append(b"" if self._model.is_control(id) else piece.replace(SPACE, " ").encode())
        return found

    def save(self, path: str | os.PathLike[str]) -> None:
        """Writes the model to one file, which `load` and every SentencePiece binding read."""
        Path(path).write_bytes(self.model)

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> "Tokenizer":
        """Reads a SentencePiece model file, or a model's tokenizer.json. DataError: no such file, or not one."""
        try:
            model = Path(path).expanduser().read_bytes()
        except (OSError, RuntimeError, ValueError) as error:
            said = getattr(error, "strerror", None) or error
            raise DataError(f"cannot read the tokenizer {str(path)[:300]}: {said}") from None
        if is_bytelevel(model):
            model = adopted(model, Path(path).expanduser())
        return cls(model, source=str(path))

    @property
    def adds_space(self) -> bool:
        """Whether a text is encoded as if a space stood before it, as by Llama 2's tokenizer, or at its end."""
        return bool(messages.ModelProto.FromString(self.model).normalizer_spec.add_dummy_prefix)

    def _encode_apart(self, text: str) -> list[int]:
        """The ids of a text, each sign of `_as_bytes` encoded by itself."""
        parts = re.split(f"([{''.join(self._as_bytes)}])", text)
        first, *others = self._model.encode(parts[::2])
        return list(chain(first, *map(add, map(self._as_bytes.__getitem__, parts[1::2]), others)))

    def _pack(self, texts: Sequence[str]) -> list[bytes]:
        ids = self.encode_all(texts, threads=1) if texts else []
        width, packed = np.dtype(self.dtype).itemsize, np.array(list(chain(*ids)), dtype=self.dtype).tobytes()
        ends = list(accumulate(width * len(some) for some in ids))
        return [packed[begin:end] for begin, end in zip([0, *ends], ends, strict=False)]

    @cached_property
    def _words(self) -> Words | None:
        return None if is_bytelevel(self.model) or not by_words(self.model) else Words(self._pack)

    def _checked(self, ids: Iterable[int]) -> list[int]:
        checked = [int(id) for id in ids]
        for id in checked:
            if not 0 <= id < self.vocab_size:
                raise DataError(f"token id {id} is outside the vocabulary of {self.vocab_size} pieces")
        return checked

    @cached_property
    def _as_bytes(self) -> dict[str, list[int]]:
        """The ids of the bytes of characters that SentencePiece itself cannot keep apart.

        To it a space and ▁ are one character: that of the space where a piece has one, and else that of ▁.
        """
        pieces = self._model.id_to_piece(list(range(self.vocab_size)))
        signs = (SPACE,) if any(SPACE in piece or " " in piece for piece in pieces) else (SPACE, " ")
        ids = {sign: [self._model.piece_to_id(f"<0x{byte:02X}>") for byte in sign.encode()] for sign in signs}
        return ids if all(self._model.is_byte(id) for id in chain(*ids.values())) else {}


def _sentencepiece(model: bytes, source: str) -> Any:
    try:
        opened = sentencepiece.SentencePieceProcessor(model_proto=model)
    except RuntimeError:
        raise DataError(f"{source} is not a SentencePiece model") from None
    try:
        opened.id_to_piece(list(range(opened.vocab_size())))
    except UnicodeDecodeError:
        raise DataError(
            f"{source} is a damaged SentencePiece model: it has a piece that is not UTF-8"
        ) from None
    return opened


def load_foreign(path: str | os.PathLike[str]) -> Tokenizer:
    """A SentencePiece model of somebody else, without the space that it adds to every text, if it does.

    That space would stand at each part of a text that is encoded by itself. DataError: as of `Tokenizer`.
    """
    tokenizer = Tokenizer.load(path)
    if is_bytelevel(tokenizer.model) or not tokenizer.adds_space:
        return tokenizer
    return Tokenizer(tokenizer.model + NO_DUMMY_PREFIX, source=str(path))


def _is_unicode(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def check(config: TokenizerConfig) -> None:
    """DataError: a kind of tokenizer that does not exist, an empty vocabulary, or a path without a model."""
    if config.path is not None:
        Tokenizer.load(config.path)
    elif config.kind not in KINDS:
        raise DataError(f"unknown tokenizer kind {config.kind!r}{nearest(config.kind, KINDS)}")
    elif config.vocab_size < 1:
        raise DataError(f"vocab_size is {config.vocab_size}; it counts the pieces of the tokenizer")
    elif config.vocab_size >= 1 << 31:
        raise DataError(f"vocab_size is {config.vocab_size}; SentencePiece takes less than {1 << 31}")


def train(texts: Iterable[str], config: TokenizerConfig) -> Tokenizer:
    """Learns a vocabulary; the same texts give the same bytes. DataError: a size that they do not allow."""
    model = io.BytesIO()
    try:
        sentencepiece.SentencePieceTrainer.train(
            sentence_iterator=_lines(texts),
            model_writer=model,
            model_type=config.kind,
            vocab_size=config.vocab_size,
            minloglevel=2,
            **SETTINGS,
        )
    except RuntimeError as error:
        raise DataError(_explain(str(error), config)) from None
    return Tokenizer(model.getvalue())


def _lines(texts: Iterable[str]) -> Iterator[str]:
    """Lines, the longest ones in parts: the trainer skips what is longer than its limit in bytes."""
    for text in texts:
        for line in text.split("\n"):
            for begin in range(0, len(line), LONGEST_LINE):
                yield line[begin : begin + LONGEST_LINE]


def _explain(message: str, config: TokenizerConfig) -> str:
    asked = f"tokenizer.vocab_size={config.vocab_size} is too"
    if found := re.search(r"Vocabulary size too high .*<= (\d+)", message):
        return (
            f"{asked} large for this corpus: a {config.kind} tokenizer finds at most {found[1]} pieces in it"
        )
    if found := re.search(r"smaller than required_chars\. -?\d+ vs (\d+)", message):
        return f"{asked} small: bytes, BOS and the characters of this corpus alone take {found[1]} pieces"
    if config.kind == "char" and "(vocab_size) >= (0)" in message:
        least = 256 + 2 + len(SETTINGS["user_defined_symbols"])
        return f"{asked} small: bytes, BOS, line break and unknown alone take {least} pieces"
    return f"the tokenizer cannot be trained: {message.strip()}"
