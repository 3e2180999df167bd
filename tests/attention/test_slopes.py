"""Slopes: what falls with distance is added to the scores of a mechanism; ALiBi's are powers of two."""

from dataclasses import replace

import pytest
import torch

import attention
from attention import AttentionError, alibi, attend, get, row_stats, weights
from attention.conformance import make
from attention.core.call import CallSpec
from attention.core.inputs import prepare
from attention.kernels.dense import score_matrix
from tests.attention.conftest import by_kernel, label

MECHANISMS = [get(name) for name in attention.names()]
TAKING = [mechanism for mechanism in MECHANISMS if mechanism.takes_slopes]
COMPILED = {"softmax", "softpick", "entmax15"}
"""Of these the C++ is compiled."""


def stated(mechanism, query, key, value, params, slopes):
    """The formula, by hand: the mechanism's scores without slopes, the slopes, weights."""
    own = prepare(query, key, value, mechanism, CallSpec(params=params))
    plain = replace(own, scores=replace(own.scores, slope=None))
    distance = torch.arange(query.shape[1])[:, None] - torch.arange(key.shape[1])
    score = score_matrix(plain) + slopes.to(query.dtype)[:, None, None] * distance
    visible = plain.visible.mask()
    weight = mechanism.weights_in(plain.call, score, visible).where(visible, 0)
    return torch.einsum("bhts,bshd->bthd", weight, value.repeat_interleave(2, 2))


def test_the_slopes_of_alibi():
    assert alibi(8).tolist() == [-(2.0**-k) for k in range(1, 9)]
    assert alibi(2).tolist() == [-(2.0**-4), -(2.0**-8)]


@pytest.mark.parametrize("mechanism", TAKING, ids=label)
def test_every_kernel_adds_them_to_the_scores(mechanism):
    inputs = make(queries=37, head_dim=16, spread=2.0)
    params = mechanism.initial_values(4, 16)
    double = [x.detach().requires_grad_() for x in inputs.all[:3]]
    truth = stated(mechanism, *double, {name: x.double() for name, x in params.items()}, alibi(4))
    gradients = torch.autograd.grad(truth.square().sum(), double)
    assert not torch.allclose(truth, attend(*double, mechanism, params=params), atol=1e-3)
    served = []
    for name, out, found_gradients in by_kernel(mechanism, double, COMPILED, slopes=alibi(4), params=params):
        served.append(name)
        assert torch.allclose(out.double(), truth, atol=5e-5)
        for found, right in zip(found_gradients, gradients, strict=True):
            assert torch.allclose(found.double(), right, rtol=1e-3, atol=1e-3), name
    assert {"dense", "tiled"} <= set(served)
    assert not {"sdpa", "flash"} & set(served)


def test_weights_and_statistics_know_them():
    inputs = make(queries=20, head_dim=8)
    flat = torch.zeros_like(inputs.query)
    weight = weights(flat, torch.zeros_like(inputs.key), "softmax", slopes=alibi(4))
    assert torch.allclose(weight[..., -1, -2] / weight[..., -1, -1], alibi(4).exp().double())
    stats = row_stats(flat, torch.zeros_like(inputs.key), "softmax", slopes=alibi(4))
    assert torch.allclose(stats.first[0, :, -1].double(), weight[0, :, -1, 0].double(), atol=1e-6)


@pytest.mark.parametrize("name", [x.name for x in MECHANISMS if not x.takes_slopes])
def test_a_mechanism_without_such_scores_refuses(name):
    inputs = make(queries=4, head_dim=8)
    with pytest.raises(AttentionError, match="takes no slopes"):
        attend(inputs.query, inputs.key, inputs.value, name, slopes=alibi(4))


@pytest.mark.parametrize(
    ("slopes", "message"),
    [
        (alibi(3), r"slopes must be floating \[4\], got torch.float32 \[3\]"),
        (torch.ones(4, dtype=torch.int64), "slopes must be floating"),
        (alibi(4).requires_grad_(), "slopes are constant"),
        ([1.0] * 4, "slopes must be a tensor"),
    ],
)
def test_mistakes(slopes, message):
    inputs = make(queries=4, head_dim=8)
    with pytest.raises(AttentionError, match=message):
        attend(inputs.query, inputs.key, inputs.value, "softmax", slopes=slopes)


def test_a_module_adds_them():
    inputs = make(queries=9, head_dim=8)
    module = attention.Attention("softpick", 4, 8, alibi=True)
    expected = attend(inputs.query, inputs.key, inputs.value, "softpick", slopes=alibi(4))
    assert torch.equal(module(inputs.query, inputs.key, inputs.value), expected)
    assert "alibi=True" in repr(module)
