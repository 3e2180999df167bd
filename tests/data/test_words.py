"""Word by word gives the ids of the whole."""

import hashlib

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st
from test_tokenizer import TOKENIZERS, foreign, users

from data import Tokenizer, TokenizerConfig, words
from data.survey import hash_of_words
from data.tokenizer import LostTextError, train
from data.words import by_words

LOSSY = {"normalization_rule_name": "identity", "remove_extra_whitespaces": False, "add_dummy_prefix": False}
TEXT = st.text(alphabet=st.sampled_from("aab e\n\t\0\u2581\u00e9x1. \r"), max_size=60) | st.text(max_size=30)


@given(texts=st.lists(TEXT, max_size=5))
@example(texts=["", " ", "  \n ", "\n\n", "a\0b c", "\u2581 a"])
@pytest.mark.parametrize("kind", TOKENIZERS)
def test_the_same_ids_as_the_whole_text(kind: str, texts: list[str]) -> None:
    tokenizer: Tokenizer = TOKENIZERS[kind]
    packed = [np.frombuffer(ids, tokenizer.dtype).tolist() for ids in tokenizer.encode_packed(texts)]
    assert packed == [tokenizer.encode(text) for text in texts]


@given(text=TEXT, length=st.integers(1, 9))
def test_a_long_text_is_gone_through_in_parts(text: str, length: int) -> None:
    hashed, plain = hash_of_words(text).digest(), hashlib.sha256(" ".join(text.split()).encode()).digest()
    assert hashed == plain
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(words, "AT_ONCE", length)
        assert hash_of_words(text).digest() == plain
        packed = TOKENIZERS["bpe"].encode_packed([text])[0]
        assert np.frombuffer(packed, "uint16").tolist() == TOKENIZERS["bpe"].encode(text)


def test_which_tokenizers_qualify() -> None:
    assert [kind for kind in TOKENIZERS if by_words(TOKENIZERS[kind].model)] == ["bpe"]
    for other in (
        {"split_by_whitespace": False},
        {"treat_whitespace_as_suffix": True},
        {"add_dummy_prefix": True},
    ):
        assert not by_words(users(**LOSSY | other))
    assert by_words(train(["a b\nc"], TokenizerConfig(kind="char", vocab_size=300)).model)


def test_words_are_forgotten_before_they_are_too_many(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(words, "MOST", 10)
    tokenizer = Tokenizer(TOKENIZERS["bpe"].model)
    for text in ("a b c", "b c d e f", "g h i j k l m", " ".join(f"w{number}" for number in range(50))):
        packed = tokenizer.encode_packed([text])[0]
        assert np.frombuffer(packed, tokenizer.dtype).tolist() == tokenizer.encode(text)
    assert tokenizer._words is not None
    assert len(tokenizer._words) == 50


def test_a_word_that_is_lost_is_said_to_be_of_its_text() -> None:
    tokenizer = Tokenizer(foreign(**LOSSY))
    assert by_words(tokenizer.model)
    with pytest.raises(LostTextError) as lost:
        tokenizer.encode_packed(["the cat", "sat on", "the dog", "mat"])
    assert lost.value.index == 2
