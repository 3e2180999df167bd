"""The exported tokenizer gives the ids of the original, whatever the text."""

import json
import random
from pathlib import Path

import pytest
import sentencepiece
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoTokenizer

from data import Tokenizer, TokenizerConfig
from data import tokenizer as tokenizers
from data.corpora.synthetic import TASKS, lesson
from models import ModelError
from models.export.tokenizer import HOSTILE, compare, exported
from tests import bytelevel
from tests.eval.conftest import prose

TEXTS = [prose(index, 300) for index in range(8)] + ["aaabab aba naïve 123 日本 👩‍👧 \t\u00a0x"] * 4


SYMBOLS = [lesson(task, 64, 0, index).text for task in TASKS for index in range(9)]
"""Texts without a space, as the synthetic tasks have them."""

KINDS = {
    "bpe": (TEXTS, TokenizerConfig(vocab_size=420)),
    "char": (TEXTS, TokenizerConfig(kind="char", vocab_size=330)),
    "symbols": (SYMBOLS, TokenizerConfig(kind="char", vocab_size=330)),
}


@pytest.fixture(scope="module", params=KINDS)
def pair(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Tokenizer, object]:
    """A tokenizer, and what `AutoTokenizer` opens of its export."""
    mine = tokenizers.train(*KINDS[request.param])
    folder = tmp_path_factory.mktemp("tokenizer")
    exported(mine, 128, generates_ends=True).save_pretrained(folder)
    return mine, AutoTokenizer.from_pretrained(folder)


def test_hostile_texts_have_the_same_ids(pair: tuple) -> None:
    compare(*pair, HOSTILE)


@given(text=st.text(st.characters(exclude_categories=["Cs"]), max_size=60))
def test_any_text_has_the_same_ids(pair: tuple, text: str) -> None:
    mine, theirs = pair
    assert theirs.encode(text, add_special_tokens=False) == mine.encode(text)


def test_words_run_together_have_the_same_ids(pair: tuple) -> None:
    chance = random.Random(0)
    texts = ["".join(chance.choices("ab \n\u2581qgé1", k=80)) for _ in range(300)]
    compare(*pair, [*texts, *(text.replace(" ", "") for text in TEXTS)])


def test_a_text_begins_a_document(pair: tuple) -> None:
    mine, theirs = pair
    assert theirs("the queen").input_ids == mine.encode("the queen", bos=True)
    batch = theirs(["the", "the queen speaks"], padding=True)
    assert batch["attention_mask"][0][0] == 0
    assert batch["input_ids"][0][0] == theirs.pad_token_id != theirs.bos_token_id
    assert theirs.decode(theirs("the  queen\n").input_ids, skip_special_tokens=True) == "the  queen\n"


def test_a_byte_level_tokenizer_is_exported_as_it_was(tmp_path: Path) -> None:
    bytelevel.trained(TEXTS, 300).save(str(tmp_path / "tokenizer.json"))
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"bos_token": bytelevel.END}))
    mine = Tokenizer.load(tmp_path / "tokenizer.json")
    exported(mine, 128, generates_ends=True).save_pretrained(tmp_path / "exported")
    theirs = AutoTokenizer.from_pretrained(tmp_path / "exported")
    compare(mine, theirs, [*HOSTILE, *TEXTS])
    assert theirs("the queen").input_ids == mine.encode("the queen", bos=True)


def test_other_ids_are_seen() -> None:
    one, two = (
        tokenizers.train(TEXTS, TokenizerConfig(kind=kind, vocab_size=400)) for kind in ("bpe", "char")
    )
    with pytest.raises(ModelError, match="would encode 'the queen' as"):
        compare(one, exported(two, 128, False), ["the queen"])


def test_what_cannot_be_had_alike_is_refused(tmp_path: Path) -> None:
    unigram = tokenizers.train(TEXTS, TokenizerConfig(kind="unigram", vocab_size=340))
    with pytest.raises(ModelError, match="unigram tokenizer cannot be exported"):
        exported(unigram, 128, False)
    text = tmp_path / "text"
    text.write_text("\n".join(TEXTS))
    sentencepiece.SentencePieceTrainer.train(
        input=str(text),
        model_prefix=str(tmp_path / "m"),
        vocab_size=340,
        byte_fallback=True,
        model_type="bpe",
        minloglevel=2,
    )
    with pytest.raises(ModelError, match="changes text before it encodes it"):
        exported(Tokenizer.load(tmp_path / "m.model"), 128, False)
