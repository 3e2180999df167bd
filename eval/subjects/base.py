"""The interface of a model that is evaluated, whoever trained it."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from functools import cached_property
from pathlib import Path
from types import MappingProxyType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from attention import Mechanism
from common.hashing import json_hash, text_hash
from data import Prepared
from eval.subjects import texts
from eval.subjects.coverage import Coverage
from models import AttentionCall, ModelError

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
"""The dtypes a subject can be evaluated in, by name."""

AttentionReport = Callable[[AttentionCall], Tensor | None]
HiddenReport = Callable[[int, Tensor], None]

Places = tuple[Tensor, Tensor]
"""The sequence and the position, int64 [N] each, of places in a batch."""


class Subject(ABC):
    """A trained language model with its tokenizer and its held-out text.

    Attributes:
        name: of the run, unique enough for a table.
        label: what attends, e.g. "softmax*1,swat*3".
        path: of the run.
        step: of the checkpoint, None where the run has no steps.
        checkpoint: sha256 of the weights.
        architecture: fingerprint of the config that makes a network of them.
        train_length: tokens per training sequence.
        max_length: positions the network refuses to exceed, None where it has no such limit.
        vocab_size: number of logits.
        bos: id of the token that begins a document, None where the model has none.
        eos: id of the token that ends one, in runs of this project the beginning of the next.
        network: the module that computes, in eval mode, without gradients.
        device, dtype: where and in what it computes.
        batch_tokens: tokens of a forward pass that an analysis should not exceed; results do not depend on it.
        results: folder of the result files.
        other_text: reads what to evaluate on instead of the run's held-out text, its origin in words and its documents.
        config: the resolved config of the run, empty for models of others.
        allow_network: whether a corpus that the run's config names may be fetched from another machine.
    """

    name: str
    label: str
    path: Path
    step: int | None
    checkpoint: str
    architecture: str
    train_length: int
    max_length: int | None
    vocab_size: int
    bos: int | None
    eos: int | None
    tokenizer_fingerprint: str
    network: nn.Module
    device: torch.device
    dtype: torch.dtype
    batch_tokens: int
    results: Path
    other_text: Callable[[], tuple[str, list[str]]] | None = None
    config: Mapping[str, Any] = MappingProxyType({})
    allow_network: bool = False

    @abstractmethod
    def encode(self, text: str) -> list[int]:
        """Token ids of a text, without a beginning-of-document token."""

    @property
    def begin(self) -> list[int]:
        """The tokens that the tokenizer puts before a text, in runs of this project the one that begins a document."""
        return [] if self.bos is None else [self.bos]

    @abstractmethod
    def decode(self, ids: Sequence[int]) -> str:
        """The text of token ids."""

    @abstractmethod
    def pieces(self, ids: Sequence[int]) -> list[str]:
        """The text of each token, for axes of plots."""

    @abstractmethod
    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:
        """Float32 logits [B, T, V] for tokens [B, T]; where N places are given, theirs alone, [N, V]."""

    @abstractmethod
    def states(self, tokens: Tensor) -> Tensor:
        """Final hidden states [B, T, d] for tokens [B, T], after the last norm: what the output head multiplies."""

    @property
    @abstractmethod
    def head(self) -> Tensor:
        """The matrix of the output head, [V, d]."""

    @abstractmethod
    def read_out(self, states: Tensor) -> Tensor:
        """Float32 output of the head [..., V] for final hidden states [..., d]."""

    @abstractmethod
    def trace(
        self, *, attention: AttentionReport | None = None, hidden: HiddenReport | None = None
    ) -> AbstractContextManager[None]:
        """While open, every forward pass reports each layer's attention and each block's output.

        Where `attention(call)` returns a tensor, that takes the place of the attention's output [B, T, H, D].
        `hidden(layer, residual)` gets [B, T, d] after each block, and the embeddings as layer -1.
        """

    @abstractmethod
    def generate(
        self, tokens: Sequence[int], max_new_tokens: int, temperature: float = 0.0, **sampling: Any
    ) -> list[int]:
        """The continuation of one prompt, greedy unless a temperature is given, up to an end-of-document token.

        Args:
            tokens: the prompt.
            max_new_tokens: at most.
            temperature: of draws; 0 takes the most likely token.
            sampling: what else the model's own sampler takes, like top_k.
        """

    @property
    @abstractmethod
    def blocks(self) -> nn.ModuleList:
        """The transformer blocks in order."""

    @property
    def mechanisms(self) -> set[Mechanism]:
        """The mechanisms that its layers attend with."""
        return set()

    @property
    def coverage(self) -> Coverage:
        """The layers whose attention a trace reports.

        Raises:
            ModelError: none is.
        """
        return Coverage(list(range(len(self.blocks))), len(self.blocks))

    @property
    def made_of(self) -> set[str]:
        """The names of the modules whose classes it computes with."""
        return {type(mechanism).__module__ for mechanism in self.mechanisms}

    def own_corpus(self) -> tuple[str, Prepared]:
        """The corpus whose held-out documents the model is evaluated on, in words and prepared."""
        raise ModelError(f"{self.name} has no text of its own")

    def _own_text(self) -> tuple[str, list[str]]:
        """The origin of the held-out text, in words, and its documents."""
        return texts.held_out(*self.own_corpus())

    def observe(self, tokens: Tensor) -> None:
        """Run tokens [B, T] through all blocks, for an open trace; no logits are computed."""
        self.states(tokens)

    @property
    def fixed_positions(self) -> str | None:
        """The reason why rotary positions cannot be rescaled; None where they can."""
        return f"the positions of {self.name} cannot be rescaled"

    def rescaled(self, scaling: str, factor: float, train_length: int) -> AbstractContextManager[None]:
        """While open, rotary positions are rescaled for sequences `factor` times the training length.

        Args:
            scaling, factor, train_length: as of `models.rope.Rope.rescaled`.

        Raises:
            ModelError: the positions of this model cannot be rescaled.
        """
        raise ModelError(f"{self.fixed_positions}; use --rope none")

    def losses(self, tokens: Tensor, documents: Tensor | None = None) -> Tensor:
        """Cross-entropy in nats of each token given the ones before it, [B, T - 1] for tokens [B, T].

        Only T - 1 positions are run, so T may exceed `max_length` by one.
        """
        if documents is not None:
            raise ModelError(f"{self.name} cannot keep packed documents apart; pass one document per row")
        logits = self.logits(tokens[:, :-1])
        targets = tokens[:, 1:].to(self.device)
        return functional.cross_entropy(logits.flatten(0, 1), targets.flatten(), reduction="none").view_as(
            targets
        )

    def batch(self, length: int) -> int:
        """Sequences of `length` tokens to run at once, so that neither tokens nor logits get out of hand."""
        return max(1, min(self.batch_tokens, 2**28 // self.vocab_size) // length)

    def held_out(self) -> list[str]:
        """Documents the model was not trained on, or those of `--text`."""
        return self._held_out[1]

    def training_documents(self, count: int) -> tuple[str, list[str]]:
        """The origin of the training text, in words, and up to `count` documents of it, evenly spread.

        To calibrate on: nothing of it is held out, whatever `--text` says. For a model of unknown training text it is
        that of the default corpus.
        """
        source, prepared = self.own_corpus()
        stride = -(-prepared.text.count("train") // count)
        documents = list(prepared.text.documents("train", every=stride))
        return f"{source}, training documents", documents

    @cached_property
    def _held_out(self) -> tuple[str, list[str]]:
        source, documents = (self.other_text or self._own_text)()
        if not any(documents):
            raise ModelError(f"no text to evaluate {self.name} on: {source} is empty")
        return source, documents

    @cached_property
    def token_documents(self) -> list[list[int]]:
        """The held-out documents as token ids."""
        return [self.encode(document) for document in self.held_out()]

    @property
    def identity(self) -> dict[str, str]:
        """Hashes of weights and config; a result that was measured on others is none of this model."""
        return {"checkpoint": self.checkpoint, "architecture": self.architecture}

    def describe(self) -> dict[str, Any]:
        """The `subject` entry of a result file."""
        return {
            "name": self.name,
            "label": self.label,
            "path": str(self.path),
            "step": self.step,
            "train_length": self.train_length,
            **self.identity,
        }

    def protocol(self) -> dict[str, Any]:
        """The entries of a result's protocol that the subject decides."""
        source, documents = self._held_out
        return {
            "text": {
                "source": source,
                "documents": len(documents),
                "bytes": sum(len(document.encode()) for document in documents),
                "sha256": text_hash("\0".join(documents)),
            },
            "tokenizer": self.tokenizer_fingerprint,
            "train_length": self.train_length,
            "max_length": self.max_length,
            "dtype": next(name for name, dtype in DTYPES.items() if dtype == self.dtype),
            "device": self.device.type,
        }


def fingerprint(config: Mapping[str, Any]) -> str:
    """Short hash of a config, whatever the order of its keys."""
    return json_hash(config, otherwise=str)[:16]
