"""From a config to tokens: documents, tokenizer, shards, each cached by what decides it."""

import os
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import sentencepiece

from common.files import cache_root
from common.hashing import json_hash
from common.ranges import violation
from data import tokenizer as tokenizers
from data.cache import build_once, remove_orphans
from data.config import DataConfig, TokenizerConfig
from data.corpora import CORPORA
from data.errors import DataError
from data.shards import Shard, read_shard, write_shard
from data.text import SPLITS, TextStore, open_text
from data.tokenizer import Tokenizer

TOKENIZER_BYTES = 64 << 20
"""A tokenizer is trained on evenly spaced documents of about this size in all; more teaches it nothing."""


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for training."""

    tokenizer: Tokenizer
    train: Shard
    valid: Shard
    text: TextStore
    fingerprint: str
    """Hex sha256 of the training text, the held-out text and the tokenizer."""

    def valid_documents(self) -> list[str]:
        """The held-out texts, in the order of `valid`."""
        return list(self.text.documents("valid"))

    def bytes_per_token(self, split: str = "valid") -> float:
        """UTF-8 bytes of what is learned per token of it (BOS not counted) of "train" or "valid"."""
        shard = self.valid if split == "valid" else self.train
        return shard.n_bytes / shard.n_tokens


def prepare(config: DataConfig, cache_dir: str | os.PathLike[str] | None = None) -> Prepared:
    """Builds, or finds in the cache, all that a config asks for; several processes may call it at once.

    The cache is `cache_dir`, or where `cache_root` says. DataError: any mistake
    in the config or in the files it names.
    """
    root = cache_root(cache_dir)
    remove_orphans(root)
    tokenizers.check(config.tokenizer)
    if problem := violation(config):
        raise DataError(problem)
    text = open_text(config, root)
    tokenizer = _tokenizer(config.tokenizer, text, root)

    answers_after = CORPORA[config.corpus].answers_after

    def build(folder: Path) -> None:
        for split in SPLITS:
            documents = text.documents(split)
            write_shard(folder, split, documents, tokenizer, text.count(split), answers_after)

    identity = {"text": text.fingerprints, "tokenizer": tokenizer.fingerprint}
    folder = build_once(root, "shards", {**identity, "answers_after": answers_after}, build)
    train, valid = (read_shard(folder, split) for split in SPLITS)
    return Prepared(tokenizer, train, valid, text, fingerprint=json_hash(identity))


def _tokenizer(config: TokenizerConfig, text: TextStore, root: Path) -> Tokenizer:
    if config.path is not None:
        return tokenizers.load_foreign(config.path)
    identity = {
        "text": text.fingerprints["train"],
        "kind": config.kind,
        "vocab_size": config.vocab_size,
        "settings": tokenizers.SETTINGS,
        "sample": TOKENIZER_BYTES,
        "sentencepiece": sentencepiece.__version__,
    }

    def build(folder: Path) -> None:
        stride = -(-text.size("train") // TOKENIZER_BYTES)
        sample = islice(text.documents("train"), 0, None, stride)
        tokenizers.train(sample, config).save(folder / "tokenizer.model")

    return Tokenizer.load(build_once(root, "tokenizer", identity, build) / "tokenizer.model")
