"""The kinds of norms and of MLPs, against their plain formulas."""

import pytest
import torch

from models import GPT, ModelConfig
from models.mlps import MLPS
from models.norms import NORMS

GAINS = {"rms": 32, "single_scale": 1, "unscaled": 0}
"""Learned numbers of a norm of 32 channels."""


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_is_its_formula(kind):
    torch.manual_seed(0)
    norm = NORMS[kind](32, 0.01).double()
    for gain in norm.parameters():
        torch.nn.init.normal_(gain.data, mean=1.0)
    x = torch.randn(3, 5, 32, dtype=torch.float64)
    gain = norm.weight if GAINS[kind] else 1.0
    expected = x / torch.sqrt((x * x).sum(-1, keepdim=True) / 32 + 0.01) * gain
    torch.testing.assert_close(norm(x), expected, rtol=1e-13, atol=0)
    assert sum(parameter.numel() for parameter in norm.parameters()) == GAINS[kind]


@pytest.mark.parametrize("kind", NORMS)
def test_a_norm_begins_as_the_others_and_keeps_the_dtype(kind):
    x = torch.randn(4, 32, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(NORMS[kind](32, 1e-6)(x), NORMS["unscaled"](32, 1e-6)(x))
    large = 1e4 * x.bfloat16()
    assert NORMS[kind](32, 1e-6)(large).dtype == torch.bfloat16
    torch.testing.assert_close(
        NORMS[kind](32, 1e-6)(large).float(), NORMS[kind](32, 1e-6)(large.float()), rtol=1e-2, atol=0
    )


@pytest.mark.parametrize("kind", NORMS)
def test_every_norm_of_a_model_is_of_the_kind_that_it_names(build, kind):
    model = build(norm=kind, qk_norm=True, output_norm=True)
    norms = {type(module) for name, module in model.named_modules() if name.endswith("norm")} - {type(model)}
    norms -= {type(layer.attention.post_ops["output_norm"]) for layer in model.layers}
    assert norms == {NORMS[kind]}
    assert set(NORMS) == set(GAINS)


FORMULAS = {
    "swiglu": lambda x, mlp: torch.nn.functional.silu(x @ mlp.gate.weight.T) * (x @ mlp.up.weight.T),
    "gelu": lambda x, mlp: torch.special.ndtr(x @ mlp.up.weight.T) * (x @ mlp.up.weight.T),
    "relu_squared": lambda x, mlp: (x @ mlp.up.weight.T).clamp(min=0) ** 2,
}


@pytest.mark.parametrize("kind", MLPS)
def test_an_mlp_is_its_formula(kind):
    torch.manual_seed(0)
    mlp = MLPS[kind](8, 12).double()
    x = torch.randn(3, 5, 8, dtype=torch.float64)
    torch.testing.assert_close(mlp(x), FORMULAS[kind](x, mlp) @ mlp.down.weight.T, rtol=1e-12, atol=1e-15)


@pytest.mark.parametrize("kind", MLPS)
def test_the_way_back_into_the_residual_stream_begins_smaller(kind):
    model = GPT(ModelConfig(preset="nano", n_layer=8, mlp=kind))
    for layer in model.layers:
        assert layer.mlp.down.weight.std().item() == pytest.approx(0.02 / 4, rel=0.05)
        assert layer.mlp.up.weight.std().item() == pytest.approx(0.02, rel=0.05)
