"""Intervals that the caller chose mean the same on every kernel as the documents and windows they stand for."""

import pytest
import torch

import attention
from attention import AttentionError, attend, get
from attention.conformance import make
from attention.core.call import CallSpec
from attention.core.inputs import prepare
from attention.core.masks import visibility
from attention.kernels import dispatch
from attention.kernels.kernel import obstacle
from tests.attention.conftest import REPRESENTATIVES

DOCUMENTS = torch.tensor([[-1] * 4 + [0] * 13 + [1] * 6, [0] * 20 + [-1] * 3])
NAMES = sorted(REPRESENTATIVES - {"simrf"} | {"softmax", "softmax_sink", "swat"})


def intervals_of(queries, keys, **mask):
    """The intervals of a mask, [B, T, 3]."""
    visible = visibility(queries, keys, **mask)
    return torch.stack([visible.first, visible.last, visible.position.expand_as(visible.first)], -1)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("window", [None, 5])
def test_they_equal_documents_and_windows(name, window):
    inputs, mechanism = make(2, 23, head_dim=16).to(torch.float32), get(name)
    params = mechanism.initial_values(4, 16)
    intervals = intervals_of(23, 23, documents=DOCUMENTS, window=window or mechanism.window)
    served = []
    for kernel in dispatch.KERNELS:
        spec = CallSpec(intervals=intervals, causal=False, params=params)
        if kernel == "flex" or obstacle(dispatch.KERNELS[kernel], prepare(*inputs.all[:3], mechanism, spec)):
            continue
        served.append(kernel)
        results = []
        for options in (
            {"documents": DOCUMENTS, "window": window},
            {"intervals": intervals, "causal": False},
        ):
            out = attend(*inputs.all[:3], mechanism, kernel=kernel, params=params, **options)
            results.append([out, *torch.autograd.grad(out, inputs.all[:3], inputs.grad_out)])
        for found, right in zip(*results, strict=True):
            assert torch.allclose(found, right, atol=1e-6)
    assert {"cpu", "tiled", "dense"} - set(served) <= ({"cpu"} if name == "soft_lowrank" else set())


def test_a_cache_may_be_longer_than_what_it_holds():
    """Keys beyond the queries are there and not seen; distances count from a query's own place."""
    query, key, value = (torch.randn(1, length, 2, 16) for length in (3, 9, 9))
    for name in ("softmax", "swat", "ssmax"):
        expected = attend(query, key[:, :7], value[:, :7], name)
        intervals = torch.tensor([[[0, 5, 4], [0, 6, 5], [0, 7, 6]]])
        found = attend(query, key, value, name, intervals=intervals)
        assert torch.allclose(found, expected, atol=1e-6)
        stats = attention.row_stats(query, key, name, intervals=intervals)
        assert torch.equal(stats.visible, torch.tensor([[5, 6, 7]]))


@pytest.mark.parametrize(
    ("intervals", "words"),
    [
        (torch.zeros(1, 5, 2, dtype=torch.long), "must be int64"),
        (torch.zeros(1, 5, 3), "must be int64"),
        (torch.zeros(3, 5, 3, dtype=torch.long), "hold 3 sequences, the queries 2"),
        (torch.zeros(1, 5, 3, dtype=torch.long, device="meta"), "on meta"),
        ([[0, 1, 0]], "must be a tensor"),
    ],
)
def test_wrong_ones_are_refused(intervals, words):
    query = torch.randn(2, 5, 2, 16)
    with pytest.raises(AttentionError, match=words):
        attend(query, query, query, "softmax", intervals=intervals)


def test_they_stand_for_documents_and_no_state():
    query = torch.randn(2, 5, 2, 16)
    intervals = intervals_of(5, 5)
    with pytest.raises(AttentionError, match="documents or intervals, not both"):
        attend(query, query, query, "softmax", intervals=intervals, documents=torch.zeros(2, 5, dtype=int))
    with pytest.raises(AttentionError, match="takes documents, not intervals"):
        attend(query, query, query, "simrf", intervals=intervals)
