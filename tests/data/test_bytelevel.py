"""Byte-level tokenizers of models that others trained."""

import json
import pickle
from pathlib import Path

import pytest

from data import DataError, Tokenizer
from tests import bytelevel

pytest.importorskip("tokenizers")

EVERY_BYTE = "".join(
    map(chr, [*range(0x800), *range(0x800, 0xD800, 0x1000), *range(0x10000, 0x110000, 0x10000)])
)
"""Of those that UTF-8 has."""

TEXTS = (
    EVERY_BYTE,
    "",
    "the queen's  speech\n\n",
    "naïve ▁ 日本 👩‍👧 \x00\x7f",
    "<|end|> and <s>",
    "a" * 300,
)


def trained(folder: Path, **beside: object) -> Path:
    """The tokenizer.json of a small byte-level BPE, and the file beside it."""
    fast = bytelevel.trained(["the queen's speech, the king's speech"] * 4, 300)
    # For batches of others; a text of ours is neither cut nor filled.
    fast.enable_truncation(4)
    fast.enable_padding(length=32)
    fast.save(str(folder / "tokenizer.json"))
    (folder / "tokenizer_config.json").write_text(json.dumps(beside))
    return folder / "tokenizer.json"


def test_text_survives_and_each_id_has_its_bytes(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(trained(tmp_path, eos_token="<|end|>"))
    contents = tokenizer.piece_bytes()
    packed = tokenizer.encode_packed(TEXTS)
    for text, ids, some in zip(TEXTS, tokenizer.encode_all(TEXTS), packed, strict=True):
        assert tokenizer.decode(ids) == text
        assert b"".join(contents[id] for id in ids) == text.encode()
        assert tokenizer.bos not in ids
        assert len(some) == 2 * len(ids)
    assert contents[tokenizer.bos] == b""
    assert tokenizer.encode("x", bos=True)[0] == tokenizer.bos
    assert tokenizer.pieces(tokenizer.encode(" é\n", bos=True)) == ["<|end|>", "▁", "<0xC3>", "<0xA9>", "↵"]
    with pytest.raises(DataError, match="bytes that are not UTF-8"):
        tokenizer.encode("\ud800")


def test_it_is_kept_in_one_file(tmp_path: Path) -> None:
    tokenizer = Tokenizer.load(trained(tmp_path, bos_token={"content": "<|end|>"}, eos_token="<other>"))
    tokenizer.save(tmp_path / "tokenizer.model")
    for same in (Tokenizer.load(tmp_path / "tokenizer.model"), pickle.loads(pickle.dumps(tokenizer))):
        assert same.fingerprint == tokenizer.fingerprint
        assert same.encode("the queen") == tokenizer.encode("the queen")


@pytest.mark.parametrize(
    ("beside", "change", "complaint"),
    [
        ({}, None, "names no bos_token and no eos_token"),
        ({"bos_token": "<other>"}, None, "no special token '<other>'"),
        ({"bos_token": "a"}, None, "no special token 'a'"),
        ({"bos_token": "<|end|>"}, lambda found: found.update(decoder=None), "is not byte-level"),
        (
            {"bos_token": "<|end|>"},
            lambda found: found.pop("model"),
            "is not a SentencePiece model, and no tokenizer.json",
        ),
        (
            {"bos_token": "<|end|>"},
            lambda found: found.update(model={"type": "X"}),
            "is not a tokenizer.json",
        ),
    ],
)
def test_what_is_none_is_refused(tmp_path: Path, beside: dict, change, complaint: str) -> None:
    path = trained(tmp_path, **beside)
    if change:
        found = json.loads(path.read_text())
        change(found)
        path.write_text(json.dumps(found))
    with pytest.raises(DataError, match=complaint):
        Tokenizer.load(path)
