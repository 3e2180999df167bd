"""From a config to tokens: documents, tokenizer, shards, each cached by what decides it."""

import json
import os
from collections.abc import Iterator
from dataclasses import dataclass, replace
from functools import partial
from itertools import islice
from pathlib import Path

import sentencepiece

from common.files import cache_root
from common.hashing import json_hash
from common.ranges import violation
from data import tokenizer as tokenizers
from data.cache import build_once, remove_orphans
from data.config import DataConfig, TokenizerConfig
from data.corpora import open_corpus
from data.corpora.mix import Mix
from data.corpora.tokens import TokenFiles
from data.encoding import encode
from data.errors import DataError
from data.fetched import fetched
from data.known import known_hashes
from data.pretokenised import survey_tokens
from data.progress import Progress
from data.shards import Shard, Source, read_index, read_shard
from data.split import check
from data.survey import FACTS, SPLITS
from data.text import SplitText, open_text
from data.tokenizer import Tokenizer

TOKENIZER_BYTES = 64 << 20
"""A tokenizer is trained on evenly spaced documents of about this size in all; more teaches it nothing."""


@dataclass(frozen=True)
class Text:
    """The documents of both splits, "train" and "valid": what their tokens stand for, byte for byte."""

    shards: dict[str, Shard]
    tokenizer: Tokenizer
    duplicates: int
    """Documents that were dropped because another has the same words."""
    cut: bool
    """Whether the corpus is one text, of which the end is held out."""

    def documents(self, split: str, every: int = 1) -> Iterator[str]:
        """The texts of a split, or each so many-th of them, in the order of the corpus."""
        shard = self.shards[split]
        for index in range(0, len(shard), every):
            yield self.tokenizer.decode(shard.document(index)[1:].tolist())

    def count(self, split: str) -> int:
        """The number of documents of a split."""
        return len(self.shards[split])


@dataclass(frozen=True)
class Prepared:
    """A corpus ready for training."""

    tokenizer: Tokenizer
    train: Shard
    valid: Shard
    text: Text
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
    """Build, or find in the cache, all that a config asks for; several processes may call it at once.

    The cache is `cache_dir`, or where `cache_root` says. A call that was stopped, however, is continued by the next.
    DataError: any mistake in the config or in the files it names.
    """
    root = cache_root(cache_dir)
    remove_orphans(root)
    tokenizers.check(config.tokenizer)
    if problem := violation(config):
        raise DataError(problem)
    corpus = open_corpus(config)
    if isinstance(corpus, TokenFiles):
        return _pretokenised(corpus, root)
    text = open_text(config, fetched(corpus, root), root)
    tokenizer = _tokenizer(config.tokenizer, text, root)
    answers_after = corpus.answers_after
    identity = {"text": text.fingerprints, "tokenizer": tokenizer.fingerprint}
    folder = build_once(
        root,
        "shards",
        {**identity, "answers_after": answers_after},
        partial(encode, text=text, tokenizer=tokenizer, answers_after=answers_after),
        resumable=True,
    )
    train, valid = read_shard(folder, "train"), read_shard(folder, "valid")
    if isinstance(corpus, Mix):
        identity["weights"] = corpus.weights
        train, valid = (_weighted(shard, corpus.weights) for shard in (train, valid))
    readable = Text({"train": train, "valid": valid}, tokenizer, text.duplicates, text.cut)
    return Prepared(tokenizer, train, valid, readable, fingerprint=json_hash(identity))


def _pretokenised(corpus: TokenFiles, root: Path) -> Prepared:
    config = corpus.config
    assert config.tokenizer.path is not None
    tokenizer = tokenizers.load_foreign(config.tokenizer.path)
    check(config.held_out)
    decides = {
        "content": corpus.identity(known_hashes(root)),
        "tokenizer": tokenizer.fingerprint,
        "max_documents": config.max_documents,
        "held_out": config.held_out,
        "seed": config.seed,
    }
    build = partial(survey_tokens, corpus=corpus, tokenizer=tokenizer)
    folder = build_once(root, "tokens", decides, build)
    facts = json.loads((folder / FACTS).read_bytes())
    train, valid = (read_index(folder, split, corpus.token_files) for split in SPLITS)
    identity = {"text": facts["fingerprints"], "tokenizer": tokenizer.fingerprint}
    text = Text({"train": train, "valid": valid}, tokenizer, facts["duplicates"], cut=False)
    return Prepared(tokenizer, train, valid, text, fingerprint=json_hash(identity))


def _weighted(shard: Shard, weights: dict[str, float]) -> Shard:
    """The shard of a mixture with the weights of its sources, of which each has documents. DataError: one has none."""
    counts = {source.name: source.documents for source in shard.mixed}
    if missing := [name for name in weights if not counts.get(name)]:
        raise DataError(
            f"source {missing[0]!r} of the mixture has no document of its own on one side of the split (one that an "
            "earlier source has, too, does not count): give it more text or leave it out"
        )
    mixed = tuple(Source(name, counts[name], weight) for name, weight in weights.items())
    return replace(shard, mixed=mixed)


def _tokenizer(config: TokenizerConfig, text: SplitText, root: Path) -> Tokenizer:
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
        stride = -(-text.bytes["train"] // TOKENIZER_BYTES)
        with Progress("reading for the tokenizer", text.bytes["train"]) as progress:

            def texts() -> Iterator[str]:
                for kept in text.kept():
                    if kept.split == "train":
                        progress.add(len(kept.text))
                        yield kept.text

            tokenizers.train(islice(texts(), 0, None, stride), config).save(folder / "tokenizer.model")

    return Tokenizer.load(build_once(root, "tokenizer", identity, build) / "tokenizer.model")
