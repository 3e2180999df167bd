"""Byte-level BPE tokenizers of the `tokenizers` library (GPT-2, Llama 3, Qwen, SmolLM): a model's `tokenizer.json`.

Each byte has a character of its own, so nothing is lost and nothing is unknown. Which token begins a document does not
stand there but in the file beside it; both are kept as one file, {"begins": "<|im_start|>", "tokenizer": {...}}.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from data.errors import DataError
from data.words import SPACE

BESIDE = "tokenizer_config.json"


class ByteLevel:
    """A tokenizer behind the methods that `Tokenizer` asks of SentencePiece."""

    def __init__(self, model: bytes, source: str) -> None:
        """DataError: it is none of this kind, or cannot be read."""
        try:
            from tokenizers import Tokenizer
        except ImportError:
            raise DataError(f"{source} needs the package tokenizers: pip install -e '.[eval]'") from None
        found = _parsed(model, source)
        try:
            self._fast = Tokenizer.from_str(json.dumps(found["tokenizer"]))
        except Exception as error:
            raise DataError(
                f"{source} is not a tokenizer.json: {' '.join(str(error).split())[:200]}"
            ) from None
        if (found["tokenizer"].get("decoder") or {}).get("type") != "ByteLevel":
            raise DataError(f"{source} is not byte-level; give the tokenizer.model of this model instead")
        # The characters of a special token's name are characters.
        self._fast.encode_special_tokens = True
        self._fast.no_padding()
        self._fast.no_truncation()
        self._special = {id for id, token in self._fast.get_added_tokens_decoder().items() if token.special}
        begins = self._fast.token_to_id(found["begins"])
        if begins is None or begins not in self._special:
            raise DataError(f"{source} has no special token {found['begins']!r} to begin a document with")
        self._begins = int(begins)

    def vocab_size(self) -> int:
        """How many ids there are."""
        return int(self._fast.get_vocab_size())

    def bos_id(self) -> int:
        """The id that begins a document."""
        return self._begins

    def unk_id(self) -> int:
        """None, as SentencePiece says it."""
        return -1

    def encode(self, texts: str | Sequence[str], num_threads: int = 1) -> Any:
        """The ids of a text, or of each of several."""
        if isinstance(texts, str):
            return self._fast.encode(texts, add_special_tokens=False).ids
        if num_threads == 1:
            return [self._fast.encode(text, add_special_tokens=False).ids for text in texts]
        return [found.ids for found in self._fast.encode_batch(list(texts), add_special_tokens=False)]

    def decode(self, ids: Sequence[Any], num_threads: int = 1) -> Any:
        """The text of some ids, or of each of several lists; special tokens have none."""
        if len(ids) and not isinstance(ids[0], int):
            return [self._fast.decode(some) for some in ids]
        return self._fast.decode(ids)

    def is_byte(self, id: int) -> bool:
        """Never: bytes are characters here."""
        return False

    def piece_to_id(self, piece: str) -> int:
        """The id of a piece, -1 where there is none."""
        found = self._fast.token_to_id(piece)
        return -1 if found is None else int(found)

    def id_to_piece(self, ids: int | Sequence[int]) -> Any:
        """A label of an id, or of each of several: its text with ▁ for a space, or its bytes."""
        if not isinstance(ids, int):
            return [self.id_to_piece(id) for id in ids]
        if ids in self._special:
            return self._fast.id_to_token(ids)
        content = self.bytes_of(ids)
        try:
            return content.decode().replace(" ", SPACE)
        except UnicodeDecodeError:
            return "".join(f"<0x{byte:02X}>" for byte in content)

    def bytes_of(self, id: int) -> bytes:
        """The bytes that an id stands for, none for special tokens."""
        piece = self._fast.id_to_token(id)
        return (
            b""
            if piece is None or id in self._special
            else bytes(BYTES[sign] for sign in piece if sign in BYTES)
        )


def _alphabet() -> dict[str, int]:
    """The byte of each character: printable bytes stand for themselves, the others for the signs from U+0100 on."""
    plain = [*range(33, 127), *range(161, 173), *range(174, 256)]
    others = [byte for byte in range(256) if byte not in plain]
    return {chr(byte): byte for byte in plain} | {chr(256 + place): byte for place, byte in enumerate(others)}


BYTES = _alphabet()
"""The byte that each character of a piece stands for, as GPT-2 has it."""


def is_bytelevel(model: bytes) -> bool:
    """Whether these are the bytes of a JSON file, and not of a SentencePiece model."""
    return model.lstrip()[:1] == b"{"


def adopted(model: bytes, path: Path) -> bytes:
    """The bytes to keep of a model's tokenizer.json, with the token that begins a document from the file beside it.

    DataError: none is named there.
    """
    found = _json(model, str(path))
    if "begins" in found:
        return model
    if "model" not in found:
        raise DataError(f"{path} is not a SentencePiece model, and no tokenizer.json")
    beside = path.with_name(BESIDE)
    names = _json(beside.read_bytes(), str(beside)) if beside.is_file() else {}
    for key in ("bos_token", "eos_token"):
        token = names.get(key)
        token = token.get("content") if isinstance(token, dict) else token
        if isinstance(token, str):
            return json.dumps({"begins": token, "tokenizer": found}, ensure_ascii=False).encode()
    raise DataError(f"{beside} names no bos_token and no eos_token; every document begins with one")


def original(model: bytes) -> str:
    """The tokenizer.json of which these are the kept bytes.

    DataError: they are none.
    """
    return json.dumps(_parsed(model, "the tokenizer")["tokenizer"])


def _parsed(model: bytes, source: str) -> dict[str, Any]:
    found = _json(model, source)
    if not isinstance(found.get("tokenizer"), dict) or not isinstance(found.get("begins"), str):
        raise DataError(f"{source} does not say which token begins a document")
    return found


def _json(text: bytes, source: str) -> dict[str, Any]:
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):
        found = None
    if not isinstance(found, dict):
        raise DataError(f"{source} is not a SentencePiece model, and not JSON")
    return found
