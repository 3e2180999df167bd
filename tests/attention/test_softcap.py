"""Scores that are capped before a mechanism weighs them."""

from dataclasses import replace

import pytest
import torch

import attention
from attention import AttentionError, attend, get
from attention.conformance import make
from attention.core.call import CallSpec
from attention.core.inputs import prepare
from attention.core.mechanism import Mechanism
from attention.forms.ratio import Ratio
from tests.attention.conftest import by_kernel, label

CAP = 4.0
PLAIN = [
    replace(mechanism, epsilon=1e-30) if hasattr(mechanism, "epsilon") else mechanism
    for mechanism in map(get, attention.names())
    if type(mechanism).scores is Mechanism.scores
]
"""What is added to a sum is next to nothing: with a cap it is added without a pivot, by the formula with one."""
COMPILED = {"softmax", "softpick"}
"""Of these the C++ is compiled."""

OTHERS = [get(name) for name in attention.names() if type(get(name)).scores is not Mechanism.scores]


def stated(mechanism, query, key, value, params):
    """The formula, by hand: scores, cap, weights."""
    score = torch.einsum("bthd,bshd->bhts", query, key.repeat_interleave(2, 2)) * query.shape[-1] ** -0.5
    score = CAP * torch.tanh(score / CAP)
    visible = torch.ones(score.shape[-2:], dtype=torch.bool).tril()
    call = prepare(query, key, value, mechanism, CallSpec(params=params)).call
    weight = mechanism.weights_in(call, score, visible).where(visible, 0)
    return torch.einsum("bhts,bshd->bthd", weight, value.repeat_interleave(2, 2))


@pytest.mark.parametrize("mechanism", PLAIN, ids=label)
def test_every_kernel_computes_the_formula_of_capped_scores(mechanism):
    inputs = make(queries=37, head_dim=16, spread=8.0)
    params = mechanism.initial_values(4, 16)
    double = [x.detach().requires_grad_() for x in inputs.all[:3]]
    truth = stated(mechanism, *double, {name: x.double() for name, x in params.items()})
    gradients = torch.autograd.grad(truth.square().sum(), double)
    assert not torch.allclose(truth, attend(*double, mechanism, params=params), atol=1e-3)
    served = []
    for name, out, found_gradients in by_kernel(mechanism, double, COMPILED, softcap=CAP, params=params):
        served.append(name)
        assert torch.allclose(out.double(), truth, atol=2e-5)
        for found, right in zip(found_gradients, gradients, strict=True):
            assert torch.allclose(found.double(), right, atol=1e-4 * max(1.0, right.abs().max().item()))
    assert "dense" in served
    if mechanism.form is Ratio:
        assert {"cpu", "tiled"} <= set(served) | ({"cpu"} if mechanism.name not in COMPILED else set())


@pytest.mark.parametrize("mechanism", OTHERS, ids=label)
def test_scores_of_a_mechanisms_own_are_not_capped(mechanism):
    query = torch.randn(1, 5, 2, 16)
    with pytest.raises(AttentionError, match=rf"{mechanism.name} makes scores of its own .* no softcap"):
        attend(query, query, query, mechanism, softcap=CAP)


@pytest.mark.parametrize("softcap", [0, -1.0, float("nan"), "5", True, 100.0])
def test_a_cap_is_a_positive_number_that_needs_no_pivot(softcap):
    query = torch.randn(1, 5, 2, 16)
    with pytest.raises(AttentionError, match="softcap must be"):
        attend(query, query, query, "softmax", softcap=softcap)


def test_weights_and_statistics_are_those_of_capped_scores():
    query, key = (5 * torch.randn(2, 20, heads, 16) for heads in (4, 2))
    whole = attention.weights(query, key, "softpick", softcap=CAP, kernel="dense")
    assert torch.allclose(attention.weights(query, key, "softpick", softcap=CAP), whole, atol=1e-5)
    stats = attention.row_stats(query, key, "softpick", softcap=CAP)
    assert torch.allclose(stats.mass, whole.sum(-1), atol=1e-5)


@pytest.mark.parametrize("score", [-1e4, -100.0, 100.0, 1e4])
def test_extreme_scores_stay_finite(score):
    query, key = torch.zeros(1, 6, 1, 16), torch.zeros(1, 6, 1, 16)
    query[..., 0], key[..., 0] = 4.0, score
    for cap in (1e-3, CAP, 64.0):
        out = attend(query.requires_grad_(), key, torch.ones_like(key), "softmax", softcap=cap)
        (gradient,) = torch.autograd.grad(out.sum(), query)
        assert torch.allclose(out, torch.ones_like(out), atol=1e-5)
        assert torch.isfinite(gradient).all()


def test_the_entropy_of_capped_scores_is_that_of_row_stats_alone():
    query = torch.randn(1, 5, 2, 16)
    with pytest.raises(AttentionError, match="row_stats has the entropy"):
        attention.entropy(query, query, softcap=CAP)


def test_a_compiled_call_is_one_graph():
    query = torch.randn(1, 9, 2, 16)

    @torch.compile(backend="aot_eager", fullgraph=True)
    def call(query):
        return attend(query, query, query, "softpick", softcap=CAP)

    assert torch.allclose(call(query), attend(query, query, query, "softpick", softcap=CAP), atol=1e-6)
    torch._dynamo.reset()
