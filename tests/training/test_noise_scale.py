"""The gradient noise scale of gradients whose noise is known."""

import math

import pytest
import torch

from models import GPT, ModelConfig
from storage import log
from tests.training.conftest import MakeConfig
from training import train
from training.losses.objective import Objective
from training.noise_scale import GradientSquares, NoiseScale

pytestmark = pytest.mark.slow


def test_the_estimate_finds_the_noise_that_was_put_in() -> None:
    """Gradients of tokens N(G, Σ), in micro-batches of unequal sizes."""
    chance = torch.Generator().manual_seed(0)
    truth = torch.randn(50, generator=chance, dtype=torch.float64) / 5
    deviation = torch.rand(50, generator=chance, dtype=torch.float64) + 0.5
    sizes = torch.tensor([8.0, 16.0, 24.0, 16.0], dtype=torch.float64)
    scale = NoiseScale()
    assert scale.tokens is None
    for _ in range(2000):
        noise = torch.randn(4, 50, generator=chance, dtype=torch.float64)
        means = truth + deviation * noise / sizes.sqrt()[:, None]
        whole = (means * sizes[:, None]).sum(0) / sizes.sum()
        small = means.square().sum(-1).mean().item()
        scale.update(small, (1 / sizes).mean().item(), whole.square().sum().item(), sizes.sum().item())
    trace, signal = deviation.square().sum().item(), truth.square().sum().item()
    assert scale.tokens == pytest.approx(trace / signal, rel=0.05)
    assert (scale.trace, scale.signal) == (pytest.approx(trace, rel=0.05), pytest.approx(signal, rel=0.05))


def test_two_sizes_without_chance_give_the_exact_numbers() -> None:
    scale = NoiseScale()
    scale.update(small=3.0 + 40 / 4, inverse_size=1 / 4, large=3.0 + 40 / 16, size=16.0)
    assert scale.tokens == pytest.approx(40 / 3)
    # The quotient of both averages does not know that they began at zero.
    assert scale.trace == pytest.approx(0.4)


def test_the_squares_are_those_of_one_backward_pass() -> None:
    torch.manual_seed(0)
    model = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64, tie_embeddings=True))
    squares = GradientSquares(model)
    tokens = torch.randint(64, (3, 2, 8))
    for part in tokens:
        Objective(model)(part, part).total.backward()
        found = squares.take().item()
        alone = GPT(model.plan)
        alone.load_state_dict(model.state_dict())
        Objective(alone)(part, part).total.backward()
        expected = sum(parameter.grad.square().sum().item() for parameter in alone.parameters())
        assert found == pytest.approx(expected, rel=1e-5)


def test_a_run_logs_it_where_a_step_has_several_micro_batches(make: MakeConfig) -> None:
    single = log.read(train(make("name=single", "train.steps=2", "train.validate_every=9")))
    assert not any("noise_scale" in record for record in single)
    options = ["name=several", "train.steps=12", "train.micro_batch_size=1", "train.validate_every=99"]
    run = train(make(*options))
    logged = [record["noise_scale"] for record in log.read(run) if "noise_scale" in record]
    assert len(logged) > 6
    assert all(0 < value < math.inf for value in logged)
