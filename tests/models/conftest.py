"""A model small enough to compute in float64, with weights so large that attention is far from uniform."""

import hashlib
from collections.abc import Callable
from pathlib import Path

import pytest
import torch

from models import GPT, ModelConfig

VOCAB = 64


def tiny(**changes: object) -> GPT:
    """Two layers of four heads and two key/value heads, float64, seeded."""
    torch.manual_seed(0)
    shape = {"vocab_size": VOCAB, "n_layer": 2, "n_head": 4, "n_kv_head": 2, "d_model": 32, "d_ff": 48}
    config = ModelConfig(**{**shape, "max_length": 512, "init_std": 0.2, **changes})
    model = GPT(config).double().eval()
    # Off their initial values, so that a test notices when learned parameters are not passed on.
    for layer in model.layers:
        for parameter in layer.attention.mixer.learned.values():
            torch.nn.init.normal_(parameter.data, mean=parameter.mean().item(), std=0.1)
    return model


@pytest.fixture
def build() -> Callable[..., GPT]:
    """The factory of tiny models; keyword arguments are fields of `ModelConfig`."""
    return tiny


@pytest.fixture
def tokens() -> torch.Tensor:
    """Random tokens [2, 40]."""
    return torch.randint(VOCAB, (2, 40), generator=torch.Generator().manual_seed(1))


class Letters:
    """A tokenizer of 64 characters, saved as text; stands in for a trained one."""

    bos = 0
    alphabet = "\n abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"[:63]

    def __init__(self, text: str = f"letters {VOCAB}") -> None:
        self.text = text
        self.vocab_size = int(text.split()[1])
        self.fingerprint = hashlib.sha256(text.encode()).hexdigest()

    def encode(self, text: str, bos: bool = False) -> list[int]:
        return [self.bos] * bos + [self.alphabet.index(letter) + 1 for letter in text]

    def decode(self, ids: list[int]) -> str:
        return "".join(self.alphabet[token - 1] for token in ids if token != self.bos)

    def save(self, path: Path) -> None:
        path.write_text(self.text)

    @classmethod
    def load(cls, path: Path) -> "Letters":
        return cls(path.read_text())


@pytest.fixture
def tokenizer(monkeypatch: pytest.MonkeyPatch) -> Letters:
    """A tokenizer that `load_run` takes for the project's."""
    monkeypatch.setattr("models.run.Tokenizer", Letters)
    return Letters()
