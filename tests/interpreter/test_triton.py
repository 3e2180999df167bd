"""The Triton kernels compute the formulas: Triton's interpreter runs them, in a pytest of its own.

    TRITON_INTERPRET=1 python -m pytest tests/interpreter

The interpreter must be chosen before a kernel is defined, and then nothing can be compiled in the same process.
"""

import functools
import importlib.util
import math
import os

import numpy as np
import pytest
import torch

if os.environ.get("TRITON_INTERPRET") != "1":
    pytest.skip("run by `TRITON_INTERPRET=1 python -m pytest tests/interpreter`", allow_module_level=True)
if importlib.util.find_spec("triton") is None:
    pytest.skip("triton is not installed (pip install triton==3.7.1)", allow_module_level=True)

import triton
import triton.language as tl
from triton.runtime import interpreter

import attention
from attention.conformance import Inputs, cases, make, run
from attention.conformance.bounds import bounds
from attention.conformance.inputs import HOSTILE, hostile
from attention.conformance.verdict import MIXED, SLACK, compare, judge, mixings
from attention.core import formula
from attention.core.formula import Function, Step, evaluate, formula_of
from attention.core.inputs import example, prepare
from attention.forms.two_stage import TwoStage
from attention.kernels import dispatch, trial
from attention.kernels.kernel import elementary, refusal
from attention.kernels.triton import KERNEL, attend_with_statistics, launch, operators, printer, tiles
from benchmarks.gpu_static import REPRESENTATIVES
from tests.attention.conftest import tiered

SERVED = [mechanism for mechanism in cases() if refusal(KERNEL, example(mechanism)) is None]
FORMS = (*REPRESENTATIVES, "gaussian")
"""A mechanism of each form and one with biases; the others differ from them in their functions and scores alone."""

every_mechanism = pytest.mark.parametrize("mechanism", [tiered(mechanism) for mechanism in SERVED])
mechanisms = pytest.mark.parametrize(
    "mechanism", [tiered(mechanism, exhaustive=mechanism.name not in FORMS) for mechanism in SERVED]
)
one_per_form = pytest.mark.parametrize(
    "name",
    [*FORMS, *(pytest.param(name, marks=pytest.mark.exhaustive) for name in ("softmax", "lssa"))],
)
attend = functools.partial(attention.attend, kernel="triton")
PADDED = torch.tensor([[-1] * 3 + [0] * 9 + [1] * 25, [0] * 20 + [1] + [2] * 12 + [-1] * 4])


def _patch_once(patch, patched=set()):  # noqa: B006
    """The interpreter patches Triton's language at every call of a jitted function, which doubles the time."""

    def patch_or_not(function):
        if id(function.__globals__) not in patched:
            patched.add(id(function.__globals__))
            patch(function)
        return interpreter._LangPatchScope()

    return patch_or_not


interpreter._patch_lang = _patch_once(interpreter._patch_lang)


def _dot(_builder, a, b, d, _precision, _imprecise):
    """A product that is rounded once: numpy's float32 product loses digits on some processors."""
    product = np.matmul(a.data.astype(np.float64), b.data.astype(np.float64)) + d.data
    return interpreter.TensorHandle(product.astype(d.data.dtype), d.dtype.scalar)


interpreter.InterpreterBuilder.create_dot = _dot


@pytest.fixture(autouse=True)
def _known(monkeypatch):
    monkeypatch.setitem(dispatch.KERNELS, "triton", KERNEL)


@mechanisms
@pytest.mark.parametrize(
    ("dtype", "names"),
    [
        (torch.float32, list(HOSTILE)),
        (torch.bfloat16, ["gaussian", "large", "early keys far below", "one massive channel"]),
        (torch.float16, ["gaussian", "large"]),
    ],
    ids=["float32", "bfloat16", "float16"],
)
def test_error_is_at_most_twice_that_of_eager_in_the_same_dtype(mechanism, dtype, names):
    # One sequence is too few to judge the rounding of two stages by.
    batch = 4 if mechanism.form is TwoStage else 1
    for name in names:
        inputs = hostile(name, batch=batch, queries=35, heads=2, key_heads=1, head_dim=16).to(dtype)
        truth = run(inputs.to(torch.float64), mechanism, "dense")
        eager = run(inputs, mechanism, "dense")
        result = run(inputs, mechanism, "triton")
        rounds = mixings(mechanism)
        if rounds == 1:
            judge(result, {key: truth[key] for key in MIXED}, eager, name, floor=1.0)
        judge(result, truth, eager, name, SLACK[dtype], floor=1.0, mixings=rounds)


def test_steep_terms_leave_one_key_the_gradient_of_the_offset():
    """dP less its own mean is nothing; its rounding, over a mass that may be next to nothing, would be more."""
    mechanism = attention.get("relu_softmax")
    inputs = hostile("gaussian", batch=1, queries=48, heads=2, key_heads=2, head_dim=16).to(torch.float32)
    alone = torch.arange(48, dtype=torch.int32)[None]
    truth = run(inputs.to(torch.float64), mechanism, "dense", documents=alone)
    found = run(inputs, mechanism, "triton", documents=alone)
    for name in ("query", "key"):
        torch.testing.assert_close(found[name].double(), truth[name], rtol=1e-3, atol=1e-9)


@pytest.mark.exhaustive
@pytest.mark.parametrize(
    "mechanism", [m for m in SERVED if m.name in ("gaussian", "lssar", "softpick", "swat")], ids=repr
)
def test_weights_are_within_the_bounds_of_the_formula(mechanism):
    bounds(mechanism, "triton", "cpu")


@every_mechanism
def test_documents_padding_grouped_heads_and_an_odd_width(mechanism):
    inputs = make(batch=2, queries=33, keys=37, heads=4, key_heads=2, head_dim=11)
    compare(inputs, mechanism, "triton", torch.float32, "documents", documents=PADDED)


@one_per_form
@pytest.mark.parametrize(
    ("shape", "masks"),
    [
        ({"queries": 67, "head_dim": 24, "heads": 2, "key_heads": 2, "batch": 1}, {"window": 9}),
        ({"queries": 20, "heads": 6, "key_heads": 2, "batch": 1}, {"causal": False}),
        ({"queries": 5, "keys": 50}, {"causal": False, "window": 12}),
        ({"queries": 1, "heads": 2}, {}),
        ({"queries": 2, "keys": 70, "heads": 8, "key_heads": 1, "batch": 1}, {}),
    ],
    ids=["long, window", "bidirectional", "bidirectional window", "one key", "few queries"],
)
def test_masks_and_shapes(name, shape, masks):
    compare(make(**shape), attention.get(name), "triton", torch.float32, name, floor=1.0, **masks)


@one_per_form
def test_values_of_another_width_and_strided_inputs(name):
    inputs = make(batch=2, queries=18, heads=2, key_heads=2, head_dim=8).to(torch.float32)
    wide = torch.randn(2, 18, 2, 20, generator=torch.Generator().manual_seed(1))
    fused = torch.cat([inputs.query, inputs.key, wide], -1).transpose(1, 2).contiguous().transpose(1, 2)
    fused = fused.detach().requires_grad_()
    plain = [x.detach().clone().contiguous().requires_grad_() for x in fused.split([8, 8, 20], -1)]
    learned = dict(attention.get(name).initial_values(2, 8))
    strided = attend(*fused.split([8, 8, 20], -1), name, params=learned)
    whole = attend(*plain, name, params=learned)
    assert torch.equal(strided, whole)
    (gradient,) = torch.autograd.grad(strided.sum(), fused)
    expected = torch.autograd.grad(whole, plain, torch.ones_like(whole))
    assert torch.equal(gradient, torch.cat(expected, -1))
    dense = attention.attend(*plain, name, kernel="dense", params=learned)
    assert torch.allclose(whole, dense, rtol=1e-4, atol=1e-5)


@mechanisms
@pytest.mark.parametrize("splits", [2, 8])
def test_keys_in_splits_are_merged_to_the_whole(mechanism, splits, monkeypatch):
    inputs = make(batch=1, queries=3, keys=90, heads=2, key_heads=1, head_dim=16, spread=3.0).to(
        torch.float32
    )
    documents = torch.tensor([[0] * 40 + [1] * 49 + [-1]])
    whole = run(inputs, mechanism, "triton", documents=documents)
    monkeypatch.setattr(launch, "splits_of", lambda call, tiles: splits)
    parts = run(inputs, mechanism, "triton", documents=documents)
    for name, tensor in whole.items():
        assert torch.allclose(parts[name], tensor, rtol=1e-4, atol=1e-5), name
    assert not parts["out"][:, -1].any()


def test_few_queries_and_many_keys_are_split_evenly_over_the_processors():
    query, key = torch.empty(1, 1, 8, 64), torch.empty(1, 4096, 2, 64)
    call = launch.Call(
        query, key, key, None, None, None, *[query] * 3, 1.0, None, 0.0, "", "interpreter", 132
    )
    assert launch.splits_of(call, tiles.Tiles(16, 64)) == 16
    assert launch.splits_of(call, tiles.Tiles(16, 2048)) == 1


@mechanisms
@torch.no_grad()
def test_decode_equals_the_whole(mechanism):
    inputs = make(batch=1, queries=20, heads=4, key_heads=2, head_dim=8).to(torch.float32)
    whole = attend(inputs.query, inputs.key, inputs.value, mechanism, window=6)
    for start, stop in ((0, 7), (7, 8), (19, 20)):
        oldest = max(0, start - 5)
        part = attend(
            inputs.query[:, start:stop],
            inputs.key[:, oldest:stop],
            inputs.value[:, oldest:stop],
            mechanism,
            window=6,
        )
        assert torch.allclose(part, whole[:, start:stop], rtol=1e-5, atol=1e-6)


@mechanisms
@torch.no_grad()
def test_the_future_changes_nothing_bit_for_bit(mechanism):
    inputs = make(batch=1, queries=21, heads=2, key_heads=1).to(torch.float32)
    before = attend(inputs.query, inputs.key, inputs.value, mechanism)
    for tensor in (inputs.query, inputs.key, inputs.value):
        tensor.data[:, 18] += 100
    after = attend(inputs.query, inputs.key, inputs.value, mechanism)
    assert torch.equal(before[:, :18], after[:, :18])
    assert not torch.equal(before[:, 18:], after[:, 18:])


@every_mechanism
@torch.no_grad()
def test_a_key_that_is_not_finite_stays_with_the_rows_that_see_it(mechanism):
    inputs = make(batch=1, queries=20, heads=2, key_heads=1, head_dim=16).to(torch.float32)
    key = inputs.key.clone()
    key[:, 11] = math.nan
    told = {"params": mechanism.initial_values(2, 16)}
    expected = attend(inputs.query, inputs.key, inputs.value, mechanism, **told)
    found = attend(inputs.query, key, inputs.value, mechanism, **told)
    assert torch.equal(found[:, :11], expected[:, :11])
    assert not found[:, 11:].isfinite().any()


@mechanisms
def test_empty_rows_give_zero_and_finite_gradients(mechanism):
    inputs = make(batch=1, queries=5, heads=2, key_heads=1)
    for dtype in (torch.float32, torch.bfloat16):
        result = run(inputs.to(dtype), mechanism, "triton", documents=torch.full((1, 5), -1))
        assert all(torch.equal(tensor, torch.zeros_like(tensor)) for tensor in result.values())


@one_per_form
def test_every_output_is_written_and_the_same_call_twice_is_bitwise_equal(name, monkeypatch):
    def poisoned(plan):
        def planned(*arguments):
            launches, *outputs = plan(*arguments)
            names = ("parts", "sums", "partial", "partial_sums")
            written = [x.arguments.get(name) for x in launches for name in names]
            for tensor in (*outputs, *written):
                for each in tensor if isinstance(tensor, tuple) else (tensor,):
                    if each is not None:
                        each.fill_(math.nan)
            return launches, *outputs

        return planned

    inputs = make(batch=2, queries=37, heads=4, key_heads=2).to(torch.bfloat16)
    mechanism = attention.get(name)
    clean = run(inputs, mechanism, "triton", documents=PADDED)
    for name in ("plan_forward", "plan_backward"):
        monkeypatch.setattr(operators, name, poisoned(getattr(operators, name)))
    for splits in (1, 2):
        monkeypatch.setattr(launch, "splits_of", lambda call, tiles, splits=splits: splits)
        again = run(inputs, mechanism, "triton", documents=PADDED)
        for key, tensor in again.items():
            assert torch.isfinite(tensor).all(), key
            assert splits > 1 or torch.equal(tensor, clean[key]), key


@one_per_form
def test_a_compiled_call_is_one_graph(name):
    inputs = make(batch=1, queries=9, heads=2, key_heads=1).to(torch.float32)
    operands = (inputs.query, inputs.key, inputs.value)
    learned = dict(attention.get(name).initial_values(*inputs.query.shape[2:]))
    compiled = torch.compile(lambda *x: attend(*x, name, params=learned), backend="aot_eager", fullgraph=True)
    out, plain = compiled(*operands), attend(*operands, name, params=learned)
    assert torch.equal(out, plain)
    gradients, expected = (torch.autograd.grad(x.square().sum(), operands) for x in (out, plain))
    assert all(torch.equal(one, other) for one, other in zip(gradients, expected, strict=True))


@one_per_form
def test_operators_keep_their_promises_to_pytorch(name):
    inputs = make(batch=1, queries=4, heads=2, key_heads=1).to(torch.bfloat16)
    prepared = _prepared(inputs, name)
    scores, visible = prepared.scores, prepared.visible
    learned = (scores.query, scores.key, prepared.value, scores.query_bias, scores.key_bias)
    masks = (visible.first, visible.last, visible.position)
    leaves = tuple(None if x is None else x.detach().requires_grad_() for x in learned)
    arguments = (
        *leaves,
        scores.slope,
        *masks,
        scores.scale,
        None,
        0.0,
        printer.module_name(formula_of(prepared.mechanism)),
        False,
    )
    checks = ("test_schema", "test_autograd_registration", "test_faketensor")
    torch.library.opcheck(operators.triton_forward, arguments, test_utils=checks)


def _prepared(inputs: Inputs, name: str):
    return prepare(*inputs.all[:3], attention.get(name))


def test_statistics_of_rows_are_returned():
    inputs = make(batch=1, queries=20, heads=2, key_heads=2).to(torch.float32)
    prepared = _prepared(inputs, "softmax")
    _, log_mass, (pivot, inverse) = attend_with_statistics(prepared, with_mass=True)
    score = torch.einsum("bthd,bshd->bhts", inputs.query, inputs.key) * prepared.scores.scale
    score = score.masked_fill(~prepared.visible.mask()[:, None], -torch.inf).transpose(1, 2)
    assert torch.equal(pivot, score.amax(-1)) or torch.allclose(pivot, score.amax(-1), atol=1e-6)
    assert torch.allclose(log_mass, score.logsumexp(-1), atol=1e-5)
    assert torch.allclose(pivot - inverse.log(), score.logsumexp(-1), atol=1e-5)
    assert attend_with_statistics(_prepared(inputs, "swat"), with_mass=False)[2].shape == (0, 1, 20, 2)


def test_refusals_name_the_reason():
    for dtype, width, reason in (
        (torch.float64, 8, "the tensors are float64; it takes float32, bfloat16 and float16"),
        (torch.float32, 320, "head_dim 320 is above 256"),
        (torch.float32, 8, None),
    ):
        inputs = make(batch=1, queries=2, head_dim=width).to(dtype)
        assert KERNEL.refuses(_prepared(inputs, "softmax")) == reason


@triton.jit
def _apply(function: tl.constexpr, first, second, out, size: tl.constexpr):
    index = tl.arange(0, size)
    tl.store(out + index, function(tl.load(first + index), tl.load(second + index)))


def _operations() -> list[tuple[Step, ...]]:
    masks = [(Step(name, (0, 1)), Step("where", (2, 0, -1.5))) for name in formula.COMPARISONS]
    first, second = Step("gt", (0, 0.0)), Step("lt", (1, 0.5))
    logical = [
        (first, second, Step(name, (2, 3)), Step("where", (4, 0, 1)))
        for name in ("logical_and", "logical_or")
    ]
    negated = [(first, Step("logical_not", (2,)), Step("where", (3, 1.0, 0)))]
    powers = [
        (Step("abs", (0,)), Step("power", (2, p))) for p in (2.0, 3.0, 15.0, -1.0, -4.0, 0.5, 2.5, -0.7)
    ]
    positive = [(Step("abs", (0,)), Step(name, (2,))) for name in ("log", "log1p", "sqrt")]
    unary = [(Step(name, (0,)),) for name in formula.UNARY if name not in ("log", "log1p", "sqrt")]
    binary = [(Step(name, (0, 1)),) for name in formula.BINARY]
    return [*unary, *positive, *binary, *masks, *logical, *negated, *powers]


@pytest.mark.parametrize(
    "steps", _operations(), ids=lambda steps: f"{steps[-1].operation}{steps[-1].operands[-1]}"
)
@pytest.mark.parametrize("spread", [1e-6, 0.3, 5.0])
def test_every_operation_is_printed_and_accurate(steps, spread):
    generator = torch.Generator().manual_seed(0)
    first, second = (torch.randn(256, generator=generator) * spread for _ in range(2))
    function = Function("function", ("first", "second"), steps, (len(steps) + 1,))
    traced = formula.Formula("operation", "pointwise", (function,), ())
    out = torch.empty(256)
    _apply[(1,)](printer.load(printer.module_name(traced)).FUNCTIONS[0], first, second, out, 256)
    (exact,) = evaluate(function, first.double(), second.double())
    assert torch.allclose(out.double(), exact.double(), rtol=5e-6, atol=1e-37, equal_nan=True)


@pytest.mark.parametrize(
    ("name", "dtype"),
    [("swat", torch.float16), ("lssar", torch.bfloat16)]
    + [pytest.param(name, torch.float32, marks=pytest.mark.exhaustive) for name in FORMS],
    ids=str,
)
def test_a_trial_of_the_templates_finds_no_flaw(name, dtype):
    mechanism = attention.get(name)
    for part, wide, with_mass in elementary(KERNEL, example(mechanism, dtype=dtype)):
        verdict = trial.attempt(KERNEL, trial.Case(part, wide, torch.device("cpu"), 16, 16, 1, with_mass))
        assert verdict.flaw is None
        assert 0 < verdict.ratio <= trial.MOST
