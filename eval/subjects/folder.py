"""Subjects in a folder that transformers opens without a network: weights, config and tokenizer."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from common.hashing import files_hash, text_hash
from data import Prepared
from eval.subjects.base import Subject, fingerprint
from eval.subjects.pretrained import load, weight_files
from eval.subjects.texts import corpus
from models import ModelError


class FolderSubject(Subject):
    """A causal language model of transformers with its tokenizer."""

    def __init__(
        self, path: Path, device: torch.device, dtype: torch.dtype, attention: str | None = None
    ) -> None:
        weights = weight_files(path)
        self._model, self._tokenizer = load(path, weights[0], dtype, attention)
        self._model.to(device).eval().requires_grad_(False)
        self.name = path.resolve().name
        self.path, self.step = path, None
        self.checkpoint = files_hash(weights)
        self.architecture = _architecture(self._model, attention)
        self.vocab_size = self._model.config.get_text_config().vocab_size
        self.bos, self.eos = self._tokenizer.bos_token_id, self._tokenizer.eos_token_id
        self.tokenizer_fingerprint = _tokenizer_fingerprint(self._tokenizer)
        self.device, self.dtype = device, dtype

    def encode(self, text: str) -> list[int]:  # noqa: D102
        ids = self._tokenizer.encode(text, add_special_tokens=False)
        if max(ids, default=0) >= self.vocab_size:
            raise ModelError(
                f"the tokenizer of {self.path} gives id {max(ids)}, and the model has {self.vocab_size}"
            )
        return ids

    @property
    def begin(self) -> list[int]:  # noqa: D102
        text, plain = self._tokenizer.encode("a"), self.encode("a")
        return text[: text.index(plain[0])] if plain and plain[0] in text else []

    def decode(self, ids: Sequence[int]) -> str:  # noqa: D102
        return self._tokenizer.decode(list(ids), skip_special_tokens=True, clean_up_tokenization_spaces=False)

    def pieces(self, ids: Sequence[int]) -> list[str]:  # noqa: D102
        return [self._tokenizer.decode([id]) for id in ids]

    def own_corpus(self) -> tuple[str, Prepared]:  # noqa: D102
        return corpus({})


def _architecture(network: Any, attention: str | None) -> str:
    configs = {"model": network.config.to_dict(), "generation": network.generation_config.to_dict()}
    # Where the model lies and who wrote its files decide nothing; its dtype is the protocol's.
    idle = ("_name_or_path", "transformers_version", "dtype")
    own = {
        which: {key: value for key, value in config.items() if key not in idle}
        for which, config in configs.items()
    }
    return fingerprint(own if attention is None else {**own, "attention": attention})


def _tokenizer_fingerprint(tokenizer: Any) -> str:
    vocabulary = sorted(tokenizer.get_vocab().items(), key=lambda entry: entry[1])
    return text_hash(repr(vocabulary))
