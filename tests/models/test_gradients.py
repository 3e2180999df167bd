"""Operations with gradients of their own: the values and gradients of the plain ones, and less is kept."""

import pytest
import torch
from torch import nn
from torch.nn import functional

from models import ModelError
from models.gradients import _Products, gated, normalised, products
from models.rope import Rope, rotate
from training.memory import saved_bytes

EPS = 1e-5


def random(*shape: int, dtype: torch.dtype = torch.float64) -> torch.Tensor:
    return torch.randn(*shape, dtype=dtype, generator=torch.Generator().manual_seed(sum(shape)))


@pytest.fixture
def layers() -> list[nn.Linear]:
    torch.manual_seed(0)
    return [nn.Linear(6, width, bias=False).double() for width in (4, 8, 2)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("gain", [True, False])
def test_a_norm_is_torchs_to_the_last_bit(dtype, gain):
    x, weight = random(3, 5, 32, dtype=dtype).requires_grad_(), random(32, dtype=dtype) if gain else None
    wanted = functional.rms_norm(x, (32,), weight, EPS)
    assert torch.equal(normalised(x, weight, EPS), wanted)
    with torch.no_grad():
        assert torch.equal(normalised(x, weight, EPS), wanted)


def test_derivatives_are_those_of_the_functions(layers):
    x, gain, other = (random(*shape).requires_grad_() for shape in ((2, 3, 6), (6,), (2, 3, 6)))
    for function, inputs in (
        (lambda x, gain: normalised(x, gain, EPS), (x, gain)),
        (lambda x: normalised(x, None, EPS), (x,)),
        (gated, (x, other)),
    ):
        assert torch.autograd.gradcheck(function, inputs)
        assert torch.autograd.gradgradcheck(function, inputs)

    def outputs(x, *weights):
        return _Products.apply(x, x.dtype, *weights)

    weights = tuple(layer.weight for layer in layers)
    assert torch.autograd.gradcheck(outputs, (x, *weights))
    assert torch.autograd.gradgradcheck(outputs, (x, *weights))


def test_products_are_those_of_the_layers(layers):
    x = random(2, 3, 6).requires_grad_()
    for found, layer in zip(products(x, *layers), layers, strict=True):
        torch.testing.assert_close(found, layer(x), rtol=1e-13, atol=1e-13)


def test_a_layer_that_is_more_than_its_product_is_called(layers):
    heard = []
    layers[1].register_forward_hook(lambda *call: heard.append(call))
    products(random(2, 3, 6).requires_grad_(), *layers)
    assert len(heard) == 1
    with torch.no_grad():
        products(random(2, 3, 6), *layers)
    assert len(heard) == 2


def test_half_precision_rounds_and_keeps_an_input_once(layers):
    layers = [layer.float() for layer in layers]
    leaf = random(50, 6, dtype=torch.float32).requires_grad_()
    kept = []
    for function in (products, lambda x, *layers: tuple(layer(x) for layer in layers)):
        x = leaf * 1  # autocast remembers roundings of leaves
        with torch.autocast("cpu", torch.bfloat16), saved_bytes([x, *(y.weight for y in layers)]) as saved:
            outputs = function(x, *layers)
        assert {y.dtype for y in outputs} == {torch.bfloat16}
        sum(y.float().square().sum() for y in outputs).backward()
        kept.append((saved.total, leaf.grad, [y.weight.grad for y in layers]))
        leaf.grad = None
        for layer in layers:
            layer.weight.grad = None
    ours, theirs = kept
    assert ours[0] == 2 * x.numel() < theirs[0] / 2.5
    torch.testing.assert_close(ours[1], theirs[1], rtol=2e-2, atol=2e-2)
    for found, wanted in zip(ours[2], theirs[2], strict=True):
        assert torch.equal(found, wanted)


def test_a_second_derivative_of_rounded_products_is_refused(layers):
    x = random(2, 6, dtype=torch.float32).requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        total = products(x, *(layer.float() for layer in layers))[0].float().sum()
    with pytest.raises(ModelError, match="no second derivative"):
        torch.autograd.grad(total, x, create_graph=True)


def test_less_is_kept_than_by_plain_operations():
    x, up, gain = (random(*shape).requires_grad_() for shape in ((4, 32), (4, 32), (32,)))
    for ours, plain in (
        (lambda: normalised(x, gain, EPS), lambda: functional.rms_norm(x, (32,), gain, EPS)),
        (lambda: gated(x, up), lambda: functional.silu(x) * up),
    ):
        kept = []
        for function in (ours, plain):
            with saved_bytes([x, up, gain]) as saved:
                output = function()
            kept.append(saved.total)
            del output
        assert kept[0] < kept[1]


def test_transforms_and_forward_mode_are_served(layers):
    x = random(5, 6)
    for function in (
        lambda x: normalised(x, None, EPS),
        lambda x: gated(x, x),
        lambda x: sum(y.sum() for y in products(x, *layers)),
    ):
        torch.func.vmap(torch.func.grad(lambda row, function=function: function(row).sum()))(x)
        torch.func.jvp(function, (x,), (x,))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_rotation_is_that_of_the_halves_to_the_last_bit(dtype):
    heads = random(2, 9, 3, 8, dtype=torch.float32).to(dtype).requires_grad_()
    cosine, sine = (x[..., 4:] for x in Rope(8, 100.0).rotations(3, 9, like=heads))
    left, right = heads.to(cosine.dtype).chunk(2, dim=-1)
    wanted = torch.cat([left * cosine - right * sine, right * cosine + left * sine], dim=-1).to(dtype)
    found = rotate(heads, Rope(8, 100.0).rotations(3, 9, like=heads))
    assert torch.equal(found, wanted)
    weights = random(*heads.shape, dtype=torch.float32).to(dtype)
    gradients = [torch.autograd.grad(x, heads, weights)[0] for x in (found, wanted)]
    assert torch.equal(*gradients)
