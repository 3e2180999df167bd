"""Identities between normalisers, and the gradients of what they learn, on every kernel."""

import math

import pytest
import torch
from torch.nn.functional import pad

import attention
from attention.conformance import RefusedError
from attention.kernels import dispatch
from tests.attention.conftest import Inputs, make, run

kernels = pytest.mark.parametrize("kernel", dispatch.KERNELS)
SINKS = (-1.5, 0.0, 0.7, 3.0)


def _run(inputs: Inputs, mechanism: attention.Mechanism, kernel: str, **arguments) -> dict[str, torch.Tensor]:
    """Output and gradients, unless the kernel does not serve such a call."""
    try:
        return run(inputs, mechanism, kernel, **arguments)
    except RefusedError as refusal:
        pytest.skip(str(refusal))


def _attend(inputs: Inputs, mechanism: attention.Mechanism, kernel: str, params) -> torch.Tensor:
    try:
        return attention.attend(
            inputs.query, inputs.key, inputs.value, mechanism, kernel=kernel, params=params, window=7
        )
    except attention.AttentionError as refusal:
        pytest.skip(str(refusal))


def _softmax_scores(inputs: Inputs) -> torch.Tensor:
    """Plain scores [B, H, T, S] in float64, -inf outside of a causal window of 7."""
    query, key = inputs.query.double(), inputs.key.double().repeat_interleave(2, 2)
    score = torch.einsum("bthd,bshd->bhts", query, key) / query.shape[-1] ** 0.5
    seen = torch.ones(score.shape[-2:]).tril().triu(-6).bool()
    return score.masked_fill(~seen, -torch.inf)


@kernels
def test_the_gradient_of_sinks_is_that_of_the_plain_formula_and_of_the_closed_form(kernel):
    inputs = make(queries=23, heads=4, key_heads=2).to(torch.float32)
    sink = torch.tensor(SINKS, requires_grad=True)
    out = _attend(inputs, attention.get("softmax_sink"), kernel, {"sink": sink})
    (gradient,) = torch.autograd.grad(out, sink, inputs.grad_out)

    score, plain_sink = _softmax_scores(inputs), sink.detach().double().requires_grad_()
    total = score.logsumexp(-1).logaddexp(plain_sink[:, None])
    value = inputs.value.double().repeat_interleave(2, 2)
    plain = torch.einsum("bhts,bshd->bthd", (score - total[..., None]).exp(), value)
    (expected,) = torch.autograd.grad(plain, plain_sink, inputs.grad_out.double())
    assert torch.allclose(out.double(), plain, atol=1e-5)
    assert torch.allclose(gradient.double(), expected, rtol=1e-4, atol=1e-5)

    delta = (inputs.grad_out.double() * plain).sum(-1).transpose(1, 2)
    closed = -((plain_sink[:, None] - total).exp() * delta).sum((0, 2))
    assert torch.allclose(closed, expected, rtol=1e-10)


@kernels
def test_the_gradient_of_length_scales_is_that_of_the_plain_formula(kernel):
    inputs = make(queries=23, heads=4, key_heads=2).to(torch.float32)
    scale = torch.tensor([0.1, 0.4, 1.0, 1.5], requires_grad=True)
    out = _attend(inputs, attention.get("ssmax"), kernel, {"length_scale": scale})
    (gradient,) = torch.autograd.grad(out, scale, inputs.grad_out)

    plain_scale = scale.detach().double().requires_grad_()
    length = torch.arange(1, 24).clamp(max=7).double().log()[:, None]
    score = _softmax_scores(inputs)
    hidden = score == -torch.inf
    scaled = plain_scale[:, None, None] * length * score.masked_fill(hidden, 0)
    weight = scaled.masked_fill(hidden, -torch.inf).softmax(-1)
    plain = torch.einsum("bhts,bshd->bthd", weight, inputs.value.double().repeat_interleave(2, 2))
    (expected,) = torch.autograd.grad(plain, plain_scale, inputs.grad_out.double())
    assert torch.allclose(out.double(), plain, atol=1e-5)
    assert torch.allclose(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@kernels
def test_softmax1_is_softmax_with_a_key_and_a_value_of_zeros_in_front(kernel):
    inputs = make(queries=19).to(torch.float32)
    result = _run(inputs, attention.get("softmax1"), kernel)
    key, value = (pad(x.detach(), (0, 0, 0, 0, 1, 0)) for x in (inputs.key, inputs.value))
    padded = Inputs(inputs.query, key.requires_grad_(), value.requires_grad_(), inputs.grad_out)
    expected = run(padded, attention.get("softmax"), "dense")
    for name, tensor in result.items():
        other = expected[name][:, 1:] if name in ("key", "value") else expected[name]
        assert torch.allclose(tensor, other, atol=1e-5), name


def test_at_a_length_where_the_factor_is_one_ssmax_is_softmax():
    inputs = make(queries=1, keys=12)
    params = {"length_scale": torch.full((4,), 1 / math.log(12), dtype=torch.float64)}
    for name, plain in (("ssmax", "softmax"), ("scalable_softpick", "softpick")):
        weight = attention.weights(inputs.query, inputs.key, name, params=params)
        assert torch.allclose(weight, attention.weights(inputs.query, inputs.key, plain), atol=1e-12)


def test_a_fixed_length_of_sigmoid_is_that_of_the_row_that_sees_as_many_keys():
    inputs = make(queries=12)
    rows = attention.weights(inputs.query, inputs.key, "sigmoid")
    fixed = attention.weights(inputs.query, inputs.key, attention.get("sigmoid", length=12))
    assert torch.allclose(rows[..., -1, :], fixed[..., -1, :], atol=1e-12)
    assert (rows[..., :-1, 0] > fixed[..., :-1, 0]).all()


def test_a_length_of_nothing_is_refused():
    with pytest.raises(attention.AttentionError, match="sigmoid length must be at least 1, or None, got 0"):
        attention.get("sigmoid", length=0)
