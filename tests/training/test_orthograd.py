"""OrthoGrad against its definition."""

import pytest
import torch

from models import GPT, ModelConfig
from training.orthograd import orthogonalise


@pytest.mark.parametrize("tied", [True, False])
def test_matrices_lose_the_part_along_their_weights_and_nothing_else_changes(tied: bool) -> None:
    torch.manual_seed(0)
    model = GPT(
        ModelConfig(
            preset="nano",
            n_layer=1,
            vocab_size=64,
            attention="gaussian",
            qk_norm=True,
            tie_embeddings=tied,
            gate="headwise",
        )
    )
    for parameter in model.parameters():
        parameter.grad = torch.randn_like(parameter) + parameter.detach()
    before = {name: parameter.grad.clone() for name, parameter in model.named_parameters()}
    orthogonalise(model)
    changed = set()
    for name, parameter in model.named_parameters():
        gradient, old = parameter.grad, before[name]
        if torch.equal(gradient, old):
            continue
        changed.add(name)
        weight = parameter.detach().double().flatten()
        across = old.double().flatten()
        across = across - (weight @ across) / (weight @ weight) * weight
        expected = (across * old.double().norm() / across.norm()).view_as(old)
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-6)
        assert abs(weight @ gradient.double().flatten()) < 1e-4 * weight.norm() * old.norm()
    layer = "layers.0.attention."
    inner = {
        f"{layer}{name}.weight" for name in ("query", "key", "value", "output", "post_ops.gate.projection")
    }
    inner |= {f"layers.0.mlp.{name}.weight" for name in ("gate", "up", "down")}
    assert changed == (inner if tied else inner | {"head.weight"})


def test_zero_weights_and_zero_gradients_stay_finite() -> None:
    layer = torch.nn.Linear(3, 2, bias=False)
    layer.weight.grad = torch.zeros_like(layer.weight)
    orthogonalise(layer)
    assert (layer.weight.grad == 0).all()
    torch.nn.init.zeros_(layer.weight)
    layer.weight.grad = torch.ones_like(layer.weight)
    orthogonalise(layer)
    torch.testing.assert_close(layer.weight.grad, torch.ones(2, 3))
