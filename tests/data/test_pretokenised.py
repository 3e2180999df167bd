"""Token files of others are read where they lie."""

from pathlib import Path

import numpy as np
import pytest
from test_tokenizer import TOKENIZERS, foreign

from data import DataConfig, DataError, PackedDataset, TokenizerConfig, prepare
from data.choice import corpus_of
from data.corpora import documents, open_corpus
from data.tokens import TokenFile, Tokens

TOKENIZER = TOKENIZERS["bpe"]
TEXTS = [f"caf\u00e9 {number}\n\u2581 and {number * number}" for number in range(40)]


@pytest.fixture
def model(tmp_path: Path) -> str:
    TOKENIZER.save(tmp_path / "own.model")
    return str(tmp_path / "own.model")


def ids(texts: list[str]) -> list[int]:
    return [token for text in texts for token in TOKENIZER.encode(text, bos=True)]


def config(path: Path, model: str, **options: object) -> DataConfig:
    return DataConfig(corpus="tokens", path=str(path), tokenizer=TokenizerConfig(path=model), **options)  # type: ignore[arg-type]


@pytest.mark.parametrize("dtype", ["uint16", "uint32"])
@pytest.mark.parametrize("suffix", [".bin", ".npy"])
def test_files_of_tokens_give_text_and_bytes(suffix: str, dtype: str, model: str, tmp_path: Path) -> None:
    """Three files, cut in the middle of documents, of which one is empty and one there twice."""
    tokens = np.array([*ids(TEXTS), TOKENIZER.bos, *ids(TEXTS[:1])], dtype=dtype)
    (tmp_path / "tokens").mkdir()
    for number, part in enumerate(np.split(tokens, [101, 333])):
        file = tmp_path / "tokens" / f"{number}{suffix}"
        part.tofile(file) if suffix == ".bin" else np.save(file, part)
    options = {"token_dtype": dtype} if suffix == ".bin" else {}
    asked = config(tmp_path / "tokens", model, **options)
    prepared = prepare(asked, tmp_path / "cache")
    texts = [*prepared.text.documents("train"), *prepared.valid_documents()]
    assert sorted(texts) == sorted(TEXTS)
    assert prepared.text.duplicates == 1
    assert (len(prepared.train), len(prepared.valid)) == (37, 3)
    for split, shard in (("train", prepared.train), ("valid", prepared.valid)):
        found = list(prepared.text.documents(split))
        assert shard.text_bytes.tolist() == [len(text.encode()) for text in found]
        assert shard.n_tokens == sum(len(TOKENIZER.encode(text)) for text in found)
        assert PackedDataset(shard, 16).n_targets == shard.n_tokens
    assert {file.path.parent for file in prepared.train.files} == {tmp_path / "tokens"}, "nothing is copied"
    assert prepare(asked, tmp_path / "cache").fingerprint == prepared.fingerprint


def test_the_text_of_token_files_is_a_corpus_like_others(model: str, tmp_path: Path) -> None:
    np.save(tmp_path / "a.npy", np.array(ids(TEXTS), dtype=np.uint16))
    assert corpus_of(str(tmp_path / "a.npy")) == "tokens"
    found = documents(open_corpus(config(tmp_path / "a.npy", model, max_documents=10)))
    assert [document.text for document in found] == TEXTS[:10]
    assert (
        prepare(config(tmp_path / "a.npy", model, max_documents=10), tmp_path / "cache").text.count("train")
        == 9
    )


def test_files_that_cannot_be_read_as_tokens(model: str, tmp_path: Path) -> None:
    file = tmp_path / "a.bin"

    def refused(tokens: list[int], message: str, **options: object) -> None:
        np.array(tokens, dtype=np.uint16).tofile(file)
        with pytest.raises(DataError, match=message):
            prepare(config(file, model, **options), tmp_path / "cache")

    refused(ids(TEXTS)[1:], r"does not begin with BOS, 1 of this tokenizer: each document stands behind one")
    refused([], "does not begin with BOS")
    refused([*ids(TEXTS), 310], r"id 310 at place \d+ is outside the vocabulary of 310 pieces")
    refused([*ids(TEXTS), 0], r"id 0 at place \d+ is the unknown piece: text was lost")
    refused(ids(TEXTS[:1]), "holds a single document")
    refused([*ids(TEXTS), 1], "are no whole number of uint32 ids", token_dtype="uint32")
    with pytest.raises(DataError, match=r"needs tokenizer.path: .* there are no bits per byte"):
        prepare(DataConfig(corpus="tokens", path=str(file)), tmp_path / "cache")
    for array in (np.zeros((2, 2), np.uint16), np.zeros(3), np.array([{}])):
        np.save(tmp_path / "b.npy", array, allow_pickle=True)
        with pytest.raises(DataError, match=r"b\.npy (holds|is not)"):
            prepare(config(tmp_path / "b.npy", model), tmp_path / "cache")


def test_a_tokenizer_knows_the_bytes_of_its_pieces() -> None:
    pieces = TOKENIZER.piece_bytes()
    text = "a\n\u00e9 \u2581\U0001f600 x"
    assert b"".join(pieces[id] for id in TOKENIZER.encode(text, bos=True)) == text.encode()
    assert foreign()


def test_tokens_of_several_files_read_like_an_array(tmp_path: Path) -> None:
    whole = np.arange(20, dtype=np.uint16)
    files = []
    for number, part in enumerate(np.split(whole, [7, 8, 15])):
        part.tofile(tmp_path / f"{number}")
        files.append(TokenFile(tmp_path / f"{number}", "uint16", len(part)))
    tokens = Tokens(files)
    for begin in range(21):
        assert [int(tokens[place]) for place in range(begin)] == list(range(begin))
        for end in range(begin, 23):
            assert tokens[begin:end].tolist() == whole[begin:end].tolist()
    assert tokens[::3].tolist() == whole[::3].tolist()
    assert (np.bincount(tokens) == 1).all()
    assert (len(tokens), tokens.nbytes, tokens.tolist()) == (20, 40, whole.tolist())
