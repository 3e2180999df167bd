"""Softmax by torch's and flash-attn's kernels: the same numbers as the formula, or a refusal that says why."""

import sys
from dataclasses import replace
from importlib.machinery import ModuleSpec
from itertools import pairwise
from types import ModuleType

import pytest
import torch
from torch._subclasses import FakeTensorMode

import attention
from attention.core.call import CallSpec
from attention.core.inputs import example, prepare
from attention.forms.composite import Composite
from attention.kernels import dense, dispatch, vendor
from tests.attention.conftest import label, make, pointwise_mechanisms, run

SOFTMAX = attention.get("softmax")
SOFTMAX_OF_OTHER_SCORES = ("softmax", "ssmax", "annealed_softmax", "gumbel_softmax")
MASKS = {
    "causal": {},
    "bidirectional": {"causal": False},
    "window": {"window": 4},
    "window on both sides": {"window": 4, "causal": False},
    "documents": {"documents": torch.tensor([[0] * 5 + [1] * 8, [-1] * 4 + [2] * 6 + [3] * 3])},
    "nothing visible": {"documents": torch.full((2, 13), -1)},
}
masks = pytest.mark.parametrize("mask", MASKS.values(), ids=MASKS.keys())


@pytest.fixture(autouse=True)
def kernels(monkeypatch):
    monkeypatch.setitem(dispatch.KERNELS, "sdpa", vendor.SDPA)
    monkeypatch.setitem(dispatch.KERNELS, "flash", vendor.FLASH)


@pytest.mark.slow
@masks
@pytest.mark.parametrize("queries", [1, 9, 13])
@pytest.mark.parametrize("key_heads", [1, 2, 4])
@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16], ids=str)
def test_sdpa_errs_at_most_twice_as_much_as_the_formula(mask, queries, key_heads, dtype):
    inputs = make(queries=queries, keys=13, key_heads=key_heads).to(dtype)
    truth = run(inputs.to(torch.float64), SOFTMAX, "dense", **mask)
    eager = run(inputs, SOFTMAX, "dense", **mask)
    for name, tensor in run(inputs, SOFTMAX, "sdpa", **mask).items():
        assert torch.isfinite(tensor).all(), name
        rounding = torch.finfo(dtype).eps * truth[name].abs().max()
        errors = [(x.double() - truth[name]).square().mean().sqrt() for x in (tensor, eager[name])]
        assert errors[0] <= 2 * errors[1] + rounding, (name, errors)


def test_sdpa_is_given_no_row_without_keys(monkeypatch):
    """Some of torch's kernels return NaN for one."""
    masks = []

    def recorded(query, key, value, attn_mask=None, **others):
        masks.append(attn_mask)
        return query

    monkeypatch.setattr(vendor, "scaled_dot_product_attention", recorded)
    inputs = make(queries=13)
    attention.attend(*inputs.all[:3], SOFTMAX, kernel="sdpa", documents=MASKS["documents"]["documents"])
    assert masks[0].any(-1).all()


def test_sdpa_passes_the_scale_on():
    inputs = make()
    expected = attention.attend(*inputs.all[:3], "softmax", scale=2.0, kernel="dense")
    assert torch.allclose(attention.attend(*inputs.all[:3], "softmax", scale=2.0, kernel="sdpa"), expected)


def test_sdpa_sees_no_future_bit_for_bit():
    inputs = make(queries=11).to(torch.float32)
    before = attention.attend(*inputs.all[:3], "softmax", kernel="sdpa")
    for tensor in inputs.all[:3]:
        tensor.data[:, 7] += 100
    after = attention.attend(*inputs.all[:3], "softmax", kernel="sdpa")
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@pytest.mark.parametrize("mechanism", pointwise_mechanisms(), ids=label)
def test_what_is_not_softmax_of_plain_scores_is_refused(mechanism):
    reason = vendor.SDPA.refuses(example(mechanism))
    row_gaussian = mechanism.name == "gaussian" and mechanism.norm == "row"
    if mechanism.name == "softmax":
        assert reason is None
    elif mechanism.name in SOFTMAX_OF_OTHER_SCORES or (row_gaussian and mechanism.normalise):
        assert reason == "it is too coarse for scores other than the scaled dot product"
    elif isinstance(mechanism, Composite):
        assert reason == "it does not give the masses of rows that the parts need"
    elif row_gaussian:
        assert reason == "it takes no biases of scores"
    else:
        assert reason == "it computes softmax only"


def test_softmax_by_another_name_is_served():
    class Renamed(type(SOFTMAX)):
        name = "renamed"

    assert vendor.SDPA.refuses(example(Renamed())) is None


def on_gpu(dtype=torch.bfloat16, head_dim=64, value_dim=None, queries=6, documents=None):
    """A prepared whose queries lie on a GPU that need not be there."""
    query = torch.empty(2, queries, 2, head_dim, dtype=dtype)
    key = torch.empty(2, 6, 2, head_dim, dtype=dtype)
    value = torch.empty(2, 6, 2, value_dim or head_dim, dtype=dtype)
    options = {"causal": True, "window": None, "documents": documents, "scale": None, "params": None}
    prepared = prepare(query, key, value, SOFTMAX, CallSpec(**options))
    with FakeTensorMode():
        elsewhere = torch.empty(query.shape, dtype=dtype, device="cuda")
    return replace(prepared, scores=replace(prepared.scores, query=elsewhere))


def test_flash_names_what_it_cannot_do(flash):
    assert vendor.FLASH.refuses(on_gpu()) is None
    assert vendor.FLASH.refuses(on_gpu(documents=torch.zeros(2, 6, dtype=torch.int64))) is None
    assert vendor.FLASH.refuses(example(attention.get("swat"))) == "it computes softmax only"
    assert vendor.FLASH.refuses(example(SOFTMAX)) == "it runs on CUDA, not on cpu"
    assert vendor.FLASH.refuses(on_gpu(torch.float32)) == "it takes float16 and bfloat16, not float32"
    assert vendor.FLASH.refuses(on_gpu(head_dim=512)) == "it takes head dimensions up to 256"
    assert vendor.FLASH.refuses(on_gpu(value_dim=32)) == "it takes values as wide as keys only"
    cached = vendor.FLASH.refuses(on_gpu(queries=3, documents=torch.zeros(2, 6, dtype=torch.int64)))
    assert cached == "it takes documents without a cache only"


def test_flash_says_how_to_install_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "flash_attn", None)
    reason = vendor.FLASH.refuses(on_gpu())
    assert reason == "flash-attn is not installed: pip install -e '.[flash]'"


@pytest.fixture
def flash(monkeypatch):
    """A stand-in for flash-attn that computes what its documentation says, and records how it was called."""
    module = ModuleType("flash_attn")
    module.__spec__ = ModuleSpec("flash_attn", None)
    module.calls = []

    def flash_attn_func(q, k, v, dropout_p=0.0, softmax_scale=None, causal=False, window_size=(-1, -1)):
        module.calls.append((softmax_scale, causal, window_size))
        place = torch.arange(k.shape[1] - q.shape[1], k.shape[1])[:, None]
        column = torch.arange(k.shape[1])
        left, right = window_size
        right = 0 if causal else right
        visible = torch.ones(q.shape[1], k.shape[1], dtype=torch.bool)
        visible &= (column >= place - left) if left >= 0 else True
        visible &= (column <= place + right) if right >= 0 else True
        k, v = (x.repeat_interleave(q.shape[2] // k.shape[2], 2) for x in (k, v))
        score = torch.einsum("bthd,bshd->bhts", q, k) * (softmax_scale or q.shape[-1] ** -0.5)
        return torch.einsum("bhts,bshd->bthd", score.masked_fill(~visible, -torch.inf).softmax(-1), v)

    def flash_attn_varlen_func(q, k, v, cu_seqlens_q, cu_seqlens_k, max_seqlen_q, max_seqlen_k, **others):
        assert q.dim() == 3
        assert cu_seqlens_q.dtype == torch.int32
        assert torch.equal(cu_seqlens_q, cu_seqlens_k)
        edges = cu_seqlens_q.tolist()
        assert max_seqlen_q == max_seqlen_k == max(b - a for a, b in pairwise(edges))
        pieces = [slice(a, b) for a, b in pairwise(edges)]
        return torch.cat([flash_attn_func(q[None, i], k[None, i], v[None, i], **others)[0] for i in pieces])

    module.flash_attn_func, module.flash_attn_varlen_func = flash_attn_func, flash_attn_varlen_func
    monkeypatch.setitem(sys.modules, "flash_attn", module)
    return module


@masks
@pytest.mark.parametrize("queries", [9, 13])
def test_flash_is_called_with_the_mask_and_scale_of_the_problem(mask, queries, flash):
    if "documents" in mask and queries < 13:
        pytest.skip("refused")
    inputs = make(queries=queries, keys=13)
    arguments = {"causal": True, "window": None, "documents": None} | mask
    prepared = prepare(*inputs.all[:3], SOFTMAX, CallSpec(scale=0.7, **arguments))
    assert torch.allclose(vendor.flash_attend(prepared), dense.attend(prepared), atol=1e-12)
    assert {(scale, causal) for scale, causal, _ in flash.calls} == {(0.7, arguments["causal"])}


def test_documents_are_cut_where_ids_or_sequences_change():
    edges, longest = vendor.document_edges(torch.tensor([[3, 3, 1, 1, 1], [1, 1, -1, -1, -1]]))
    assert edges.tolist() == [0, 2, 5, 7, 10]
    assert longest == 3


def test_sdpa_compiles_for_lengths_that_are_left_open():
    def attend(x: torch.Tensor) -> torch.Tensor:
        return attention.attend(x, x, x, "softmax", kernel="sdpa")

    compiled = torch.compile(attend, dynamic=True, backend="eager", fullgraph=True)
    for length in (17, 23):
        x = torch.randn(2, length, 2, 16)
        assert torch.equal(compiled(x), attend(x))
