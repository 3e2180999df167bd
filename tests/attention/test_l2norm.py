"""Vectors of a given length: compiled and explicit, against float64."""

import pytest
import torch
from torch.nn.functional import normalize

from attention.core.l2norm import l2norm
from attention.kernels import cpu

compiled = pytest.param(
    "compiled", marks=pytest.mark.skipif(not cpu.available(), reason="no compiled kernels")
)


@pytest.fixture(params=["explicit", compiled])
def path(request, monkeypatch):
    if request.param == "explicit":
        monkeypatch.setattr(cpu, "available", lambda: False)


def _random(*shape: int) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
@pytest.mark.parametrize("head_dim", [1, 5, 16, 64, 80])
@pytest.mark.parametrize("factor_shape", [(2, 7, 3), (7, 1), (3,), ()], ids=str)
def test_values_and_gradients(path, dtype, head_dim, factor_shape):
    x = _random(2, 3, 7, head_dim).transpose(1, 2).to(dtype).detach().requires_grad_()
    factor = (_random(*factor_shape) + 3).float().requires_grad_()
    grad = _random(2, 7, 3, head_dim).to(dtype)
    wide, wide_factor = (t.detach().double().requires_grad_() for t in (x, factor))
    expected = normalize(wide, dim=-1) * wide_factor.expand(2, 7, 3)[..., None]
    out = l2norm(x, factor)
    assert out.dtype == dtype
    found = [out, *torch.autograd.grad(out, [x, factor], grad)]
    truth = [expected, *torch.autograd.grad(expected, [wide, wide_factor], grad.double())]
    for tensor, exact in zip(found, truth, strict=True):
        coarse = tensor.dtype == torch.bfloat16
        size = float(exact.detach().abs().max()) + 1
        torch.testing.assert_close(tensor.double(), exact, rtol=0, atol=(1e-2 if coarse else 1e-5) * size)


def test_gradcheck():
    x, factor = _random(2, 3, 2, 4).requires_grad_(), _random(3, 2).requires_grad_()
    assert torch.autograd.gradcheck(l2norm, (x, factor))


def test_zero_vectors_are_those_of_normalize(path):
    x = torch.zeros(1, 2, 1, 16, requires_grad=True)
    grad = torch.ones(1, 2, 1, 16)
    out = l2norm(x)
    assert torch.equal(out, torch.zeros_like(out))
    expected = torch.autograd.grad(normalize(x, dim=-1), x, grad)[0]
    torch.testing.assert_close(torch.autograd.grad(out, x, grad)[0], expected)


@pytest.mark.slow
@pytest.mark.skipif(not cpu.available(), reason="no compiled kernels")
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_the_operator_keeps_the_rules_of_operators(dtype):
    x = _random(1, 5, 2, 16).to(dtype).requires_grad_()
    factor = _random(1, 5, 2).float().requires_grad_()
    torch.library.opcheck(torch.ops.attention_zoo_cpu.unit.default, (x, factor))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
def test_by_elementary_operations_it_is_the_same(dtype):
    vectors = torch.randn(2, 3, 5, 8, dtype=dtype, generator=torch.Generator().manual_seed(0))
    factor = torch.linspace(0.5, 2, 5, dtype=dtype).expand(2, 3, 5)
    plain = l2norm(vectors, factor, plain=True)
    assert torch.allclose(plain, vectors * (factor / vectors.norm(dim=-1))[..., None], rtol=1e-5)
    assert torch.allclose(plain, l2norm(vectors, factor), rtol=1e-5)
