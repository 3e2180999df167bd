"""Small models and tokenizers to store."""

import pytest

from data import Tokenizer, TokenizerConfig
from data.tokenizer import train
from tests.models.conftest import build as build
from tests.models.conftest import tokens as tokens

TEXT = ["To be, or not to be, that is the question:\nWhether 'tis nobler in the mind to suffer\n"] * 4


@pytest.fixture(scope="session")
def tokenizer() -> Tokenizer:
    """A small real tokenizer."""
    return train(TEXT, TokenizerConfig(vocab_size=300))


@pytest.fixture(scope="session")
def other_tokenizer() -> Tokenizer:
    """As large as `tokenizer`, but not the same."""
    return train([text.upper() for text in TEXT], TokenizerConfig(vocab_size=300))
