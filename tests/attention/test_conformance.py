"""One contract for every mechanism and kernel: the dense formula in float64 is the truth."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

import attention
from attention.kernels import tiled
from tests.attention.conftest import KERNELS, every_mechanism, label, make, run

mechanisms = pytest.mark.parametrize("mechanism", every_mechanism(), ids=label)
kernels = pytest.mark.parametrize("kernel", KERNELS)


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


@mechanisms
@settings(max_examples=25, deadline=None)
@given(call=calls())
def test_tiled_equals_dense_in_float64(mechanism, call):
    shape, masks, rows = call
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(tiled, "MINIMUM_ROWS", rows)
        patch.setattr(tiled, "MAXIMUM_ROWS", rows)
        patch.setattr(tiled, "BUDGET", 8 * rows)
        inputs = make(**shape)
        truth = run(inputs, mechanism, "dense", **masks)
        for name, tensor in run(inputs, mechanism, "tiled", **masks).items():
            scale = truth[name].abs().max().clamp(min=1.0)
            assert torch.allclose(tensor / scale, truth[name] / scale, rtol=1e-8, atol=1e-9), name


def _gaussian(inputs):
    return inputs


def _large(inputs):
    inputs.query.data *= 30
    return inputs


def _tiny(inputs):
    inputs.query.data *= 1e-4
    return inputs


def _identical_keys(inputs):
    inputs.key.data[:] = inputs.key.data[:, :1]
    return inputs


def _early_keys_far_below(inputs):
    inputs.key.data[:, : inputs.key.shape[1] // 2] = -40 * inputs.query.data[:, :1, :1].sign()
    inputs.query.data[:] = inputs.query.data.abs() * inputs.query.data[:, :1, :1].sign()
    return inputs


def _mixed_magnitudes(inputs):
    inputs.query.data *= 10 ** torch.linspace(-4, 1.5, inputs.query.shape[1])[None, :, None, None]
    return inputs


def _zero_queries(inputs):
    inputs.query.data[:, ::2] = 0
    return inputs


def _one_massive_channel(inputs):
    inputs.key.data[..., 0] += 20
    inputs.query.data[..., 0] -= 3
    return inputs


HOSTILE = [
    _gaussian,
    _large,
    _tiny,
    _identical_keys,
    _early_keys_far_below,
    _mixed_magnitudes,
    _zero_queries,
    _one_massive_channel,
]


@mechanisms
@pytest.mark.parametrize("hostile", HOSTILE, ids=lambda hostile: hostile.__name__[1:])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16], ids=str)
def test_error_is_at_most_twice_that_of_eager_in_the_same_dtype(mechanism, hostile, dtype, small_tiles):
    small_tiles(16)
    shape = {"batch": 1, "queries": 67, "heads": 2, "key_heads": 1, "head_dim": 16}
    _assert_error_ratio(mechanism, [hostile(make(**shape, seed=seed)).to(dtype) for seed in range(4)])


@mechanisms
def test_gradients_of_keys_and_values_do_not_round_block_by_block(mechanism, small_tiles):
    small_tiles(4)
    inputs = make(batch=1, queries=800, heads=2, key_heads=1, head_dim=8).to(torch.bfloat16)
    _assert_error_ratio(mechanism, [inputs])


def _assert_error_ratio(mechanism, problems):
    """Root mean square error of the blocks against the float64 formula: at most twice that of the formula as is."""
    squares: dict[str, list[torch.Tensor]] = {}
    for inputs in problems:
        truth = run(inputs.to(torch.float64), mechanism, "dense")
        eager = run(inputs, mechanism, "dense")
        for name, tensor in run(inputs, mechanism, "tiled").items():
            assert torch.isfinite(tensor).all(), name
            reference = truth[name]
            rounded = reference.to(inputs.query.dtype)
            errors = (tensor - reference, eager[name] - reference, rounded - reference)
            rows = [error.double().nan_to_num(torch.inf).square().mean() for error in errors]
            squares.setdefault(name, []).append(torch.stack(rows))
    for name, rows in squares.items():
        error, eager_error, rounding = torch.stack(rows).mean(0).sqrt().tolist()
        assert error <= 2 * eager_error + 2 * rounding + 1e-12, (
            f"{name}: error {error:.3g}, eager {eager_error:.3g}, rounding {rounding:.3g}"
        )


@mechanisms
@kernels
def test_gradcheck(mechanism, kernel, small_tiles):
    inputs = make(batch=1, queries=6, heads=2, key_heads=1, head_dim=3, seed=4)
    params = {name: value.double().requires_grad_() for name, value in mechanism.parameters(2).items()}

    def call(query, key, value, *learned):
        return attention.attend(
            query, key, value, mechanism, kernel=kernel, params=dict(zip(params, learned, strict=True))
        )

    leaves = (inputs.query, inputs.key, inputs.value, *params.values())
    assert torch.autograd.gradcheck(call, leaves, eps=1e-7, atol=1e-5)


@mechanisms
@kernels
def test_the_future_changes_nothing_bit_for_bit(mechanism, kernel, small_tiles):
    inputs = make(queries=11).to(torch.float32)
    before = attention.attend(inputs.query, inputs.key, inputs.value, mechanism, kernel=kernel)
    for tensor in (inputs.query, inputs.key, inputs.value):
        tensor.data[:, 7] += 100
    after = attention.attend(inputs.query, inputs.key, inputs.value, mechanism, kernel=kernel)
    assert torch.equal(before[:, :7], after[:, :7])
    assert not torch.equal(before[:, 7:], after[:, 7:])


@mechanisms
@kernels
def test_prefill_and_decode_equal_the_whole(mechanism, kernel):
    inputs = make(queries=10)
    whole = attention.attend(inputs.query, inputs.key, inputs.value, mechanism, window=6, kernel=kernel)
    start = 0
    for chunk in (4, 1, 3, 1, 1):
        stop = start + chunk
        oldest = max(0, start - 6 + 1)
        part = attention.attend(
            inputs.query[:, start:stop],
            inputs.key[:, oldest:stop],
            inputs.value[:, oldest:stop],
            mechanism,
            window=6,
            kernel=kernel,
        )
        assert torch.allclose(part, whole[:, start:stop], atol=1e-12)
        start = stop


@mechanisms
@kernels
def test_packed_documents_equal_documents_alone_wherever_padding_stands(mechanism, kernel, small_tiles):
    inputs = make(batch=1, queries=14)
    lengths = (4, 1, 5)
    for documents in ([0] * 4 + [1] + [2] * 5 + [-1] * 4, [-1] * 4 + [0] * 4 + [1] + [2] * 5):
        out = attention.attend(
            inputs.query,
            inputs.key,
            inputs.value,
            mechanism,
            documents=torch.tensor([documents]),
            kernel=kernel,
        )
        start = documents.index(0)
        for length in lengths:
            piece = slice(start, start + length)
            alone = attention.attend(
                inputs.query[:, piece], inputs.key[:, piece], inputs.value[:, piece], mechanism, kernel=kernel
            )
            assert torch.allclose(out[:, piece], alone, atol=1e-12)
            start += length
        assert not out[:, torch.tensor(documents) < 0].any()


@mechanisms
@kernels
def test_empty_rows_give_zero_and_finite_gradients(mechanism, kernel):
    inputs = make(batch=1, queries=5)
    result = run(inputs, mechanism, kernel, documents=torch.full((1, 5), -1))
    assert all(torch.equal(tensor, torch.zeros_like(tensor)) for tensor in result.values())


@mechanisms
@kernels
def test_grouped_heads_equal_repeated_heads(mechanism, kernel):
    inputs = make(heads=4, key_heads=2)
    repeated = [x.repeat_interleave(2, 2) for x in (inputs.key, inputs.value)]
    grouped = attention.attend(inputs.query, inputs.key, inputs.value, mechanism, kernel=kernel)
    assert torch.allclose(
        grouped, attention.attend(inputs.query, *repeated, mechanism, kernel=kernel), atol=1e-12
    )


@mechanisms
def test_weights_are_what_the_kernel_used(mechanism, small_tiles):
    inputs = make(heads=4, key_heads=4)
    out = attention.attend(inputs.query, inputs.key, inputs.value, mechanism, window=5)
    weight = attention.weights(inputs.query, inputs.key, mechanism, window=5)
    assert torch.allclose(torch.einsum("bhts,bshd->bthd", weight, inputs.value), out, atol=1e-12)
    dense = attention.weights(inputs.query, inputs.key, mechanism, window=5, kernel="dense")
    assert torch.allclose(weight, dense, atol=1e-12)
    chosen = attention.weights(inputs.query, inputs.key, mechanism, window=5, rows=[7, 0, -1], heads=[2])
    assert torch.equal(chosen, weight[:, [2]][:, :, [7, 0, -1]])


@mechanisms
def test_row_statistics_equal_the_dense_computation(mechanism, small_tiles):
    inputs = make(batch=2, queries=12, keys=15)
    documents = torch.tensor([[0] * 6 + [1] * 9, [-1] * 4 + [3] * 11])
    stats = attention.row_stats(inputs.query, inputs.key, mechanism, documents=documents)
    weight = attention.weights(inputs.query, inputs.key, mechanism, documents=documents, kernel="dense")
    ones = torch.ones(1, 15, 1, 2, dtype=torch.float64)
    seen = attention.weights(
        torch.ones(2, 12, 1, 2).double(),
        ones.expand(2, -1, -1, -1),
        attention.get("swat", slopes="none", window=None),
        documents=documents,
        window=mechanism.window,
    ).bool()
    mass = weight.sum(-1)
    share = weight / (mass + 1e-8)[..., None]
    entropy = torch.special.entr(share).sum(-1)
    expected = {
        "mass": mass,
        "entropy": entropy,
        "first": weight[..., 0],
        "zeros": ((weight == 0) & seen).sum(-1),
        "small": ((weight <= 1e-5) & seen).sum(-1),
        "key_mass": weight.sum(-2),
        "key_mass_renormalised": share.sum(-2),
    }
    for name, value in expected.items():
        assert torch.allclose(getattr(stats, name).double(), value.double(), rtol=1e-4, atol=1e-5), name
    assert torch.equal(stats.visible, seen[:, 0].sum(-1))
    assert stats.max_score.max() > 0
    assert torch.isfinite(stats.max_score).all()


@mechanisms
def test_the_same_call_twice_is_bitwise_equal(mechanism):
    inputs = make(queries=33).to(torch.bfloat16)
    first, second = (run(inputs, mechanism, "tiled") for _ in range(2))
    assert all(torch.equal(first[name], second[name]) for name in first)
