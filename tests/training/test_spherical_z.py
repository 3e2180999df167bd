"""The Z-loss of the spherical family, which needs no logits, against its formula on all of them."""

from typing import Any

import pytest
import torch

from models import GPT, ModelConfig, ModelError
from storage import log
from tests.training.conftest import MakeConfig
from tests.training.test_losses import problem
from training import train
from training.losses import Options
from training.losses.chunked import cross_entropy
from training.losses.objective import Objective
from training.losses.spherical_z import spherical_z, total


def plain(hidden: Any, head: Any, targets: Any, slope: float, offset: float) -> torch.Tensor:
    logits = hidden @ head.T
    mean = logits.mean(-1, keepdim=True)
    deviation = (logits - mean).square().mean(-1, keepdim=True).sqrt()
    score = ((logits - mean) / deviation).gather(-1, targets.clamp(min=0)[:, None])[:, 0]
    return torch.where(targets != -100, torch.log(1 + torch.exp(slope * (offset - score))) / slope, 0)


@pytest.mark.parametrize(("slope", "offset"), [(0.1, 10.0), (2.0, 1.0)])
def test_it_is_the_papers_formula_and_its_gradient(slope: float, offset: float) -> None:
    hidden, head, targets = problem()
    found = spherical_z(hidden, head, targets, slope, offset)
    expected = plain(hidden, head, targets, slope, offset)
    torch.testing.assert_close(found, expected)
    assert expected.std() > 0.01
    weights = torch.rand(len(targets), dtype=torch.float64)
    gradients = torch.autograd.grad((weights * found).sum(), [hidden, head])
    torch.testing.assert_close(gradients, torch.autograd.grad((weights * expected).sum(), [hidden, head]))
    assert torch.autograd.gradcheck(lambda *x: spherical_z(*x, targets, slope, offset), (hidden, head))


def test_shift_and_scale_of_all_logits_change_nothing() -> None:
    hidden, head, targets = problem()
    expected = spherical_z(hidden, head, targets, 0.5, 2.0)
    shift = torch.randn(8, dtype=torch.float64)
    torch.testing.assert_close(spherical_z(hidden, 7 * head + shift, targets, 0.5, 2.0), expected)
    torch.testing.assert_close(spherical_z(0.01 * hidden, head, targets, 0.5, 2.0), expected)
    turned = spherical_z(hidden, -head, targets, 0.5, 2.0)
    assert not torch.allclose(turned, expected, atol=0.1)


def test_no_tensor_has_a_logit_per_token_and_piece(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes: list[int] = []
    hidden, head, targets = problem(1000, 3000, torch.float32)

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, function: Any, kinds: Any, args: Any = (), kwargs: Any = None) -> Any:
            result = function(*args, **(kwargs or {}))
            sizes.append(result.numel() if isinstance(result, torch.Tensor) else 0)
            return result

    with Watch():
        spherical_z(hidden, head, targets, 0.1, 10.0).sum().backward()
    assert max(sizes) == head.numel()


def test_the_cross_entropy_is_reported_beside_it() -> None:
    hidden, head, targets = problem(dtype=torch.float32)
    found = total(hidden, head, targets, Options(), torch.float32)
    torch.testing.assert_close(found.nats, cross_entropy(hidden, head, targets).nats)
    torch.testing.assert_close(found.total, plain(hidden, head, targets, 0.1, 10.0).sum())
    assert not found.nats.requires_grad


@pytest.mark.slow
def test_a_model_learns_by_it_and_logs_both(make: MakeConfig) -> None:
    run = train(make("train.loss=spherical_z", "train.steps=40", "train.validate_every=40"))
    records = log.read(run)
    objectives = [record["objective"] for record in records if "objective" in record]
    assert objectives[-1] < objectives[0] - 1
    losses = [record["validation_loss"] for record in records if "validation_loss" in record]
    assert losses[-1] < losses[0] - 0.1, "the right tokens come to have larger logits"


@pytest.mark.parametrize(
    ("options", "changes", "message"),
    [
        ({"z_loss": 1e-4}, {}, "train.z_loss is a part of the cross-entropy"),
        ({}, {"prediction": "stablemax"}, "it takes the head's products"),
        ({}, {"logit_softcap": 15.0}, "it takes the head's products"),
    ],
)
def test_what_it_cannot_serve_is_refused(
    options: dict[str, Any], changes: dict[str, Any], message: str
) -> None:
    model = GPT(ModelConfig(preset="nano", n_layer=1, vocab_size=64, **changes))
    with pytest.raises(ModelError, match=message):
        Objective(model, Options(loss="spherical_z", **options))
