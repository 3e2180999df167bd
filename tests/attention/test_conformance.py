"""Every mechanism on every kernel: what the checks find is what docs/capabilities.md says."""

from functools import cache
from pathlib import Path

import pytest
import torch
from hypothesis import example as found
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.utils import _pytree as pytree
from torch.utils._python_dispatch import TorchDispatchMode

import attention
from attention.conformance import CHECKS, RefusedError, cases, failures, of_this_machine, outcome
from attention.conformance.inputs import takes_windows
from attention.conformance.table import COMMAND, Outcomes, page, read, title
from attention.conformance.verdict import dtypes
from attention.core.arguments import DTYPES
from attention.core.inputs import example
from attention.kernels import dispatch, tiled
from attention.kernels.kernel import obstacle, refusal
from tests.attention.conftest import KERNELS, REPRESENTATIVES, label, make, run, tiered

TABLE = Path(__file__).parents[2] / "docs" / "capabilities.md"
TOLERANCE = {torch.float64: 1e-8, torch.float32: 2e-4}

QUICK = ("documents", "one key", "causality", "empty rows")
"""The checks of a representative that `make check` runs."""

OF_EVERY_MECHANISM = {*QUICK, "float64", "float32", "bounds", "extreme scores"}
"""The checks that `make test` runs of every mechanism: what its own formula decides, and not its form."""


@cache
def table() -> Outcomes:
    """The rows of the table; none where the project has no docs."""
    return read(TABLE)[0] if TABLE.exists() else {}


def pairs(served: bool) -> list[tuple[attention.Mechanism, str]]:
    """Mechanisms and kernels, but for those that refuse every call, or those alone; by the table, which tests check."""
    return [
        (mechanism, kernel)
        for mechanism in cases()
        for kernel in dispatch.KERNELS
        if _refuses_everything(table().get((title(mechanism), kernel), {})) != served
    ]


def _refuses_everything(row: dict[str, str]) -> bool:
    return len(set(row.values())) == 1 and all(found.startswith("no") for found in row.values())


mechanisms = pytest.mark.parametrize("mechanism", [tiered(mechanism) for mechanism in cases()])
checked = pytest.mark.parametrize(
    ("mechanism", "kernel", "check"),
    [
        tiered(
            mechanism,
            kernel,
            check,
            exhaustive=(kernel == "dense" or check not in OF_EVERY_MECHANISM)
            and mechanism.name not in REPRESENTATIVES,
            slow=mechanism.name not in REPRESENTATIVES or check not in QUICK,
        )
        for mechanism, kernel in pairs(served=True)
        for check in CHECKS
    ],
)


@cache
def absence(kernel: str) -> str | None:
    """Why this machine has no such kernel for any mechanism; None where it has."""
    reasons = [
        refusal(dispatch.KERNELS[kernel], example(mechanism, dtype=dtype))
        for mechanism in cases()
        for dtype in DTYPES
    ]
    return reasons[0] if all(reasons) else None


@checked
def test_the_check_finds_what_the_table_says(mechanism, kernel, check, small_tiles):
    small_tiles(16)
    found = outcome(mechanism, kernel, check)
    assert not found.startswith("FAILS"), f"{title(mechanism)} on {kernel}: {found}"
    agrees(mechanism, kernel, check, found)


@pytest.mark.parametrize(("mechanism", "kernel"), [tiered(*pair) for pair in pairs(served=False)])
def test_a_refusal_is_what_the_table_says(mechanism, kernel):
    try:
        dtypes(mechanism, kernel, "cpu")
    except RefusedError as refusal:
        found = f"no: {refusal}"
    else:
        found = "yes, in some dtype"
    for check in CHECKS:
        agrees(mechanism, kernel, check, found)


def agrees(mechanism: attention.Mechanism, kernel: str, check: str, found: str) -> None:
    """Compare with the table, unless this machine has no such kernel or lacks what the table's had."""
    row = table().get((title(mechanism), kernel))
    if row is None or (absence(kernel) and row[check].startswith("no")):
        return
    if absence(kernel) or of_this_machine(found):
        pytest.skip(f"{kernel}: {absence(kernel) or found}")
    assert found == row[check], f"docs/capabilities.md is stale; run `{COMMAND}`"


def test_every_form_has_a_representative():
    assert {attention.get(name).form for name in REPRESENTATIVES} == {mechanism.form for mechanism in cases()}


def test_the_table_has_a_row_for_every_mechanism_and_kernel():
    expected = {(title(mechanism), kernel) for mechanism in cases() for kernel in dispatch.KERNELS}
    assert set(table()) == expected, f"docs/capabilities.md is stale; run `{COMMAND}`"
    assert all(set(row) == set(CHECKS) for row in table().values()), f"stale; run `{COMMAND}`"


def test_the_table_is_as_written():
    outcomes, device = read(TABLE)
    assert device == "cpu"
    assert page(outcomes, device) == TABLE.read_text(), f"edited by hand; run `{COMMAND}`"


class _Narrowing(TorchDispatchMode):
    """Fails where a number in float64 is rounded to less, or one of less is taken for more."""

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        tensors = [x for x in pytree.tree_leaves((args, kwargs, out)) if isinstance(x, torch.Tensor)]
        kinds = {x.dtype for x in tensors if x.is_floating_point()} - {torch.float64}
        assert not kinds, f"{function} in {kinds}"
        return out


@mechanisms
def test_nothing_on_the_way_to_the_truth_is_rounded(mechanism, monkeypatch):
    inputs = make(queries=9, heads=4, key_heads=2, head_dim=8)
    params = {name: value.double() for name, value in mechanism.initial_values(4, 8).items()}
    monkeypatch.setattr(type(mechanism), "initial_values", lambda *_: params)
    with _Narrowing():
        attention.attend(inputs.query, inputs.key, inputs.value, mechanism, kernel="dense", params=params)


@pytest.mark.gpu
@pytest.mark.parametrize("kernel", dispatch.KERNELS)
@pytest.mark.parametrize("mechanism", cases(), ids=label)
def test_nothing_fails_on_a_gpu(mechanism, kernel):
    assert failures(mechanism, kernel, device="cuda") == []


@st.composite
def calls(draw):
    """Shapes and masks: grouped heads, more keys than queries, windows, documents with padding on either side."""
    queries = draw(st.integers(1, 20))
    keys = queries + draw(st.sampled_from([0, 0, 1, 7]))
    key_heads = draw(st.sampled_from([1, 2]))
    batch = draw(st.integers(1, 3))
    documents = None
    if draw(st.booleans()):
        ids = st.lists(st.integers(-1, 3), min_size=keys, max_size=keys)
        documents = torch.tensor(draw(st.lists(ids.map(_runs), min_size=batch, max_size=batch)))
    shape = {
        "batch": batch,
        "queries": queries,
        "keys": keys,
        "heads": key_heads * draw(st.sampled_from([1, 2])) * 2,
        "key_heads": key_heads,
        "head_dim": draw(st.sampled_from([2, 5, 8])),
        "value_dim": draw(st.sampled_from([None, 3])),
        "seed": draw(st.integers(0, 9)),
        "spread": draw(st.sampled_from([0.01, 1.0, 10.0])),
    }
    masks = {
        "causal": draw(st.booleans()),
        "window": draw(st.sampled_from([None, 1, 3, 50])),
        "documents": documents,
    }
    return shape, masks, draw(st.sampled_from([1, 2, 5, 32]))


def _runs(ids):
    return sorted(ids) if ids[0] % 2 else ids


SMALL_SCORES = {
    "batch": 2,
    "queries": 5,
    "keys": 6,
    "heads": 4,
    "key_heads": 2,
    "head_dim": 2,
    "spread": 0.01,
}
"""weighted_softpick lost three digits of its key gradients where a share of all but 1 was differentiated."""


@pytest.mark.parametrize(
    ("mechanism", "kernel"),
    [tiered(*pair, slow=True) for pair in pairs(served=True) if pair[1] != "dense"],
)
@settings(max_examples=25)
@found(call=(SMALL_SCORES, {"causal": False}, 32))
@given(call=calls())
def test_any_shape_and_mask_equals_the_formula(mechanism, kernel, call):
    try:
        dtype = dtypes(mechanism, kernel, "cpu")[0]
    except RefusedError as refusal:
        pytest.skip(str(refusal))
    shape, masks, rows = call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "MINIMUM_ROWS", rows)
        patch.setattr(tiled, "MAXIMUM_ROWS", rows)
        patch.setattr(tiled, "BUDGET", 8 * rows)
        inputs = make(**shape).to(dtype)
        try:
            truth = run(inputs.to(torch.float64), mechanism, "dense", **masks)
        except RefusedError:
            return
        for name, tensor in run(inputs, mechanism, kernel, **masks).items():
            size = truth[name].abs().max().clamp(min=1.0)
            error = (tensor - truth[name]).abs().max() / size
            assert error <= TOLERANCE[dtype], f"{name}: off by {error:.3g}"


@pytest.mark.parametrize(
    ("mechanism", "kernel"),
    [
        tiered(*pair, slow=True, exhaustive=pair[0].name not in REPRESENTATIVES)
        for pair in pairs(served=True)
        if pair[1] in (*KERNELS, "chunked")
    ],
)
def test_gradcheck(mechanism, kernel, small_tiles):
    if reason := obstacle(dispatch.KERNELS[kernel], example(mechanism)):
        pytest.skip(reason)
    inputs = make(batch=1, queries=6, heads=2, key_heads=1, head_dim=3, seed=5)
    params = {name: value.double().requires_grad_() for name, value in mechanism.initial_values(2, 3).items()}

    # Outside of training a mechanism may cut a gradient on purpose.
    phase = attention.Phase(training=True, progress=0.3, seed=torch.tensor(1))

    def call(query, key, value, *learned):
        params_given = dict(zip(params, learned, strict=True))
        return attention.attend(query, key, value, mechanism, kernel=kernel, params=params_given, phase=phase)

    leaves = (inputs.query, inputs.key, inputs.value, *params.values())
    assert torch.autograd.gradcheck(call, leaves, eps=1e-7, atol=1e-5)


@mechanisms
@torch.no_grad()
def test_weights_are_what_the_kernel_used(mechanism, small_tiles):
    inputs = make(heads=4, key_heads=4)
    window = 5 if takes_windows(mechanism) else None
    kernel = "tiled" if window else "chunked"
    out = attention.attend(inputs.query, inputs.key, inputs.value, mechanism, window=window, kernel=kernel)
    weight = attention.weights(inputs.query, inputs.key, mechanism, window=window)
    assert torch.allclose(torch.einsum("bhts,bshd->bthd", weight, inputs.value), out, atol=1e-12)
    dense = attention.weights(inputs.query, inputs.key, mechanism, window=window, kernel="dense")
    assert torch.allclose(weight, dense, atol=1e-12)
    chosen = attention.weights(inputs.query, inputs.key, mechanism, window=window, rows=[7, 0, -1], heads=[2])
    assert torch.equal(chosen, weight[:, [2]][:, :, [7, 0, -1]])


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["blocks", "compiled"])
@mechanisms
def test_row_statistics_equal_the_dense_computation(mechanism, dtype, small_tiles):
    small_tiles(16)
    inputs = make(batch=2, queries=80, keys=90, value_dim=5)
    query, key, value = (x.detach().to(dtype) for x in (inputs.query, inputs.key, inputs.value))
    documents = torch.tensor([[0] * 37 + [1] * 53, [-1] * 24 + [3] * 66])
    stats = attention.row_stats(query, key, mechanism, value=value, documents=documents)
    query, key, norm = query.double(), key.double(), value.double().norm(dim=-1)
    weight = attention.weights(query, key, mechanism, documents=documents, kernel="dense")
    ones = torch.ones(1, 90, 1, 2, dtype=torch.float64)
    seen = attention.weights(
        torch.ones(2, 80, 1, 2).double(),
        ones.expand(2, -1, -1, -1),
        attention.get("swat", slopes="none", window=None),
        documents=documents,
        window=mechanism.window,
    ).bool()
    mass = weight.sum(-1)
    magnitude = weight.abs().sum(-1, keepdim=True)
    share = weight.abs() / magnitude.where(magnitude >= 1e-8, torch.inf)
    given = weight.abs() * norm.repeat_interleave(2, 2).mT[:, :, None]
    whole = given.sum(-1, keepdim=True)
    expected = {
        "mass": mass,
        "magnitude": magnitude[..., 0],
        "entropy": torch.special.entr(share).sum(-1),
        "first": weight[..., 0],
        "key_mass": weight.sum(-2),
        "key_mass_renormalised": (weight.abs() / (magnitude + 1e-8)).sum(-2),
        "key_contribution": (given / whole.where(whole > 0, 1)).sum(-2),
    }
    for name, exact in expected.items():
        assert torch.allclose(getattr(stats, name).double(), exact, rtol=1e-4, atol=1e-5), name
    # A weight on the edge may fall on either side of it in float32.
    for name, hit in {"zeros": weight.to(dtype) == 0, "small": weight.abs() <= 1e-5}.items():
        assert (getattr(stats, name) - (hit & seen).sum(-1)).abs().sum() <= 2 * (dtype == torch.float32), name
    assert torch.equal(stats.visible, seen[:, 0].sum(-1))
    assert stats.max_score.max() > 0
    assert torch.isfinite(stats.max_score).all()
