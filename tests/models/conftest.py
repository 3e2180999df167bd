"""A model small enough to compute in float64, with weights so large that attention is far from uniform."""

from collections.abc import Callable

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
