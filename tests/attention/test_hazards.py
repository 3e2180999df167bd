"""The places where published implementations break."""

import pytest
import torch

import attention
from attention.conformance import RefusedError
from attention.conformance.verdict import dtypes
from attention.kernels import dispatch
from tests.attention.conftest import KERNELS, Inputs, make, run

kernels = pytest.mark.parametrize("kernel", dispatch.KERNELS)


def _run(inputs: Inputs, mechanism: attention.Mechanism, kernel: str, **arguments) -> dict[str, torch.Tensor]:
    """Output and gradients, unless the kernel does not serve such a call."""
    try:
        return run(inputs, mechanism, kernel, **arguments)
    except RefusedError as refusal:
        pytest.skip(str(refusal))


def _dtypes(mechanism: attention.Mechanism, kernel: str) -> list[torch.dtype]:
    """Those that the kernel takes, if any."""
    try:
        return dtypes(mechanism, kernel, "cpu")
    except RefusedError as refusal:
        pytest.skip(str(refusal))


def _weights(query, key, mechanism, kernel, **arguments) -> torch.Tensor:
    """The weights [T, S] of one head as a kernel uses them: its outputs where the values are the unit vectors."""
    unit = torch.eye(key.shape[1])[None, :, None]
    inputs = Inputs(query, key, unit, torch.ones(1, query.shape[1], 1, key.shape[1])).to(torch.float32)
    return _run(inputs, mechanism, kernel, **arguments)["out"][0, :, 0]


def _scores(*rows: float | list[float]) -> tuple[torch.Tensor, torch.Tensor]:
    """Queries and keys of head_dim 1 whose last row has exactly these scores (scale 1)."""
    rows = torch.tensor(rows, dtype=torch.float32)
    key = (rows if rows.dim() == 2 else rows[None])[:, :, None, None]
    return torch.ones(key.shape[0], 1, 1, 1), key


ONE, NEGATIVE, BELOW, NOTHING = (2.0,), (-2.0,), (-30.0,) * 3, (0.0,) * 3
THIRD = (1 / 3,) * 3

EDGES = {
    "softmax1": {ONE: (0.880797,), NEGATIVE: (0.119203,), BELOW: (9.357623e-14,) * 3, NOTHING: (0.25,) * 3},
    "softmax_sink": {
        ONE: (0.880797,),
        NEGATIVE: (0.119203,),
        BELOW: (9.357623e-14,) * 3,
        NOTHING: (0.25,) * 3,
    },
    "relu_softmax": {ONE: (1.0,), NEGATIVE: (0.0,), BELOW: None, NOTHING: None},
    "rectified": {ONE: (1.0,), NEGATIVE: (0.0,), BELOW: None, NOTHING: THIRD},
    "sigmoid": {ONE: (0.880797,), NEGATIVE: (0.119203,), BELOW: (3.119208e-14,) * 3, NOTHING: (0.25,) * 3},
    "relu": {ONE: (2.0,), NEGATIVE: (0.0,), BELOW: None, NOTHING: None},
    "stablemax": {ONE: (1.0,), NEGATIVE: (1.0,), BELOW: THIRD, NOTHING: THIRD},
    "ssmax": {ONE: (1.0,), NEGATIVE: (1.0,), BELOW: THIRD, NOTHING: THIRD},
    "scalable_softpick": {ONE: (0.0,), NEGATIVE: (0.0,), BELOW: None, NOTHING: None},
}
"""Weights of rows with one key, with scores far below zero and with scores of zero; None: dead."""


@kernels
@pytest.mark.parametrize("name", EDGES)
def test_rows_of_one_key_far_below_zero_and_of_zeros(name, kernel):
    mechanism = attention.get(name)
    for row, expected in EDGES[name].items():
        query, key = _scores(*row)
        weight = _weights(query[:, -1:], key, mechanism, kernel, scale=1.0).flatten()
        value = torch.tensor([1.0, -1.0, 0.5][: len(row)])[None, :, None, None]
        inputs = Inputs(query[:, -1:], key, value, torch.ones(1, 1, 1, 1)).to(torch.float32)
        result = _run(inputs, mechanism, kernel, scale=1.0)
        if expected is None:
            assert not weight.any()
            assert not any(tensor.any() for tensor in result.values())
        else:
            assert torch.allclose(weight, torch.tensor(expected), rtol=1e-4, atol=0), row
            assert len(row) == 1 or result["key"].any(), f"{row}: no gradient"


@kernels
def test_stablemax_has_a_tail_so_heavy_that_a_thousand_hidden_keys_must_not_be_scored_minus_1e4(kernel):
    query, key = _scores(3.0, *[-1e4] * 1000)
    weight = _weights(query[:, -1:], key, attention.get("stablemax"), kernel, scale=1.0).flatten()
    assert float(weight[1:].sum()) == pytest.approx(0.0244, abs=1e-4)
    query, key = _scores(10.0, -10.0)
    weight = _weights(query[:, -1:], key, attention.get("stablemax"), kernel, scale=1.0).flatten()
    assert float(weight[0] / weight[1]) == pytest.approx(121, rel=1e-5)


@kernels
def test_rectified_drops_a_key_as_a_whole_and_without_a_gradient(kernel):
    for score, expected in ((0.0, 0.268941), (-1e-6, 0.0)):
        query, key = _scores(score, 1.0)
        weight = _weights(query[:, -1:], key, attention.get("rectified"), kernel, scale=1.0)
        assert float(weight.flatten()[0]) == pytest.approx(expected, abs=1e-6)
        inputs = Inputs(query[:, -1:], key, key.flip(1), torch.ones(1, 1, 1, 1)).to(torch.float32)
        gradient = _run(inputs, attention.get("rectified"), kernel, scale=1.0)["key"]
        assert gradient.any() == (expected > 0)


@kernels
def test_softpick_survives_an_early_block_far_below_zero(kernel, small_tiles):
    query, key = _scores([-100.0] * 4 + [-5.0] * 4 + [3.0, -1.0, 2.0, 0.5])
    weight = _weights(query[:, -1:], key, attention.get("softpick"), kernel, scale=1.0)
    exact = torch.relu(torch.expm1(key.double())).flatten() / torch.expm1(key.double()).abs().sum()
    assert torch.allclose(weight.flatten().double(), exact, rtol=1e-5)


@kernels
def test_softpick_row_of_only_negative_scores_is_dead_not_nan(kernel):
    query, key = _scores([-90.0, -100.0, -300.0])
    inputs = Inputs(query, key, torch.ones_like(key), torch.ones_like(query)).to(torch.float32)
    result = _run(inputs, attention.get("softpick"), kernel, scale=1.0)
    assert not any(tensor.any() for tensor in result.values())


@kernels
@pytest.mark.parametrize("queries", [1, 6])
def test_a_dead_row_of_weighted_softpick_stays_one_where_nothing_divides_it(kernel, queries):
    inputs = make(queries=queries, keys=6).to(torch.float32)
    with torch.no_grad():
        inputs.query.abs_()
        inputs.key.abs_().neg_()
    found = _run(inputs, attention.get("weighted_softpick"), kernel, moved=-200.0)
    assert not any(tensor.any() for tensor in found.values())


@pytest.mark.slow
@pytest.mark.parametrize("kernel", [name for name in dispatch.KERNELS if name != "dense"])
def test_softpick_keeps_its_digits_near_zero(kernel):
    inputs = make(batch=1, queries=32, heads=1, key_heads=1, spread=1e-6).to(torch.float32)
    exact = run(inputs.to(torch.float64), attention.get("softpick", epsilon=0.0), "dense")["out"]
    out = _run(inputs, attention.get("softpick", epsilon=0.0), kernel)["out"]
    alive = exact.abs().amax(-1) > 0
    assert ((out - exact).abs().amax(-1)[alive] / exact.abs().amax(-1)[alive]).max() < 1e-4


@kernels
def test_softpick_first_row_jumps_from_nothing_to_everything(kernel):
    for score, expected in ((0.1, 1.0), (-0.1, 0.0), (0.0, 0.0)):
        query, key = _scores([score])
        weight = _weights(query, key, attention.get("softpick"), kernel, scale=1.0)
        assert float(weight) == pytest.approx(expected, abs=1e-4)


@kernels
def test_lssar_of_a_long_row_with_a_high_power_is_finite_in_float32(kernel):
    generator = torch.Generator().manual_seed(0)
    key = torch.randn(1, 8192, 1, 64, generator=generator)
    inputs = Inputs(key[:, -1:], key, key, torch.ones(1, 1, 1, 64)).to(torch.float32)
    result = _run(inputs, attention.get("lssar", power=15), kernel)
    assert all(torch.isfinite(tensor).all() for tensor in result.values())
    assert torch.allclose(result["out"], key[:, -1:], atol=1e-2)


@pytest.mark.parametrize("kernel", KERNELS)
def test_lssar_rows_of_identical_keys_die_from_the_fourth_on(kernel):
    query = torch.ones(1, 6, 1, 4)
    weight = _weights(query, query, attention.get("lssar"), kernel)
    expected = torch.tensor([1.0, 1.0, 1.0, 0.0, 0.0, 0.0])
    assert torch.allclose(weight.sum(-1), expected, atol=1e-5)


@kernels
@pytest.mark.parametrize("zeros", ["keys alike", "queries of zero"])
def test_lssar_takes_no_rounding_for_an_excess(kernel, zeros):
    """From the fourth row on nothing is above the mean; the division by next to nothing gave weights of one."""
    inputs = make(batch=20, queries=32, heads=2, key_heads=2, head_dim=64)
    if zeros == "keys alike":
        inputs.key.data[:] = inputs.key.data[:, :1].clone()
    else:
        inputs.query.data.zero_()
    inputs.grad_out[:, :3] = 0
    for power in (1, 3, 15):
        mechanism = attention.get("lssar", power=power)
        for dtype in _dtypes(mechanism, kernel):
            result = _run(inputs.to(dtype), mechanism, kernel)
            assert not result["out"][:, 3:].any()
            assert not any(result[name].any() for name in ("query", "key", "value"))


def test_lssar_keeps_a_row_whose_excess_is_real():
    key = torch.zeros(1, 8, 1, 4)
    key[..., 0] = 1
    key[:, 5, :, 1] = 0.05
    query = torch.zeros(1, 1, 1, 4)
    query[..., :2] = 1
    weight = attention.weights(query, key, "lssar", kernel="tiled")
    assert torch.allclose(weight[0, 0, 0], torch.eye(8)[5])


@kernels
@pytest.mark.parametrize(("normalise", "least"), [(True, 0.998), (False, 0.996)])
def test_a_gaussian_kernel_of_a_vector_with_itself_is_one(kernel, normalise, least):
    """It was 46 in bfloat16 and infinite in float16, and formula and kernels agreed on it."""
    mechanism = attention.get("gaussian", normalise=normalise)
    for dtype in _dtypes(mechanism, kernel):
        for spread in (1, 3, 10, 30):
            x = (make(queries=16, heads=2, key_heads=2, head_dim=64, seed=spread).key * spread).detach()
            unit = torch.eye(16, dtype=x.dtype)[:, None].expand(2, 16, 2, 16)
            out = _run(Inputs(x, x, unit, torch.ones_like(unit)).to(dtype), mechanism, kernel)["out"]
            weight = out.diagonal(dim1=1, dim2=3)
            assert least <= weight.min() <= weight.max() <= 1, (dtype, spread)


@pytest.mark.parametrize("sharpness", [0.5, 3.0])
@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
def test_gaussian_weights_are_those_of_vectors_a_rounding_away(dtype, normalise, sharpness):
    """Near keys, where rounding is all there is, against the distance of the unrounded vectors."""
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(1, 24, 2, 64, generator=generator, dtype=torch.float64)
    key = query + 0.2 * torch.randn(1, 24, 2, 64, generator=generator, dtype=torch.float64)
    mechanism = attention.get("gaussian", normalise=normalise)
    params = {"sharpness": torch.full((2,), sharpness, dtype=torch.float64)}
    truth = attention.weights(query, key, mechanism, params=params, kernel="dense")
    beta = torch.nn.functional.softplus(params["sharpness"][0])
    # |q - k| is 0.2 |q| and moves by eps |q| at most, the exponent by beta / sqrt(d) times the product of both.
    # Products of beta |q|^2 / sqrt(d) are summed in float32.
    allowed = (0.2 * 64 * beta / 8 + 2) * torch.finfo(dtype).eps + 64 * beta / 8 * 4 * 2.0**-23
    for kernel in ("dense", "tiled"):
        weight = attention.weights(query.to(dtype), key.to(dtype), mechanism, params=params, kernel=kernel)
        assert (weight - truth).abs().max() <= allowed, kernel


@pytest.mark.parametrize("kernel", ["auto", "tiled", "dense"])
@pytest.mark.parametrize("sharpness", [-60.0, -200.0])
@pytest.mark.parametrize("normalise", [True, False])
def test_a_gaussian_kernel_may_forget_all_distance(kernel, sharpness, normalise):
    """In float32 beta squared is 0 at softplus(-60), beta at softplus(-200): every weight is 1."""
    inputs = make(queries=9).to(torch.float32)
    learned = torch.full((inputs.query.shape[2],), sharpness, requires_grad=True)
    mechanism = attention.get("gaussian", normalise=normalise)
    out = attention.attend(*inputs.all[:3], mechanism, params={"sharpness": learned}, kernel=kernel)
    shared = inputs.query.shape[2] // inputs.value.shape[2]
    assert torch.allclose(out, inputs.value.cumsum(1).repeat_interleave(shared, 2), atol=1e-4)
    gradients = torch.autograd.grad(out.sum(), (*inputs.all[:3], learned))
    assert all(gradient.isfinite().all() for gradient in gradients)


@pytest.mark.parametrize("name", ["sparsemax", "entmax15"])
def test_a_threshold_within_one_of_a_large_score_keeps_its_digits(name):
    score = torch.tensor([[3000.1, 3000.3, 2999.6, -40.0]])
    weight = attention.get(name).weights(score, torch.ones(1, 4, dtype=torch.bool))
    assert abs(float(weight.sum()) - 1) < 1e-6


def test_clipped_softmax_has_one_gradient_for_a_share_of_one_and_a_last_bit_below():
    mechanism = attention.get("clipped_softmax")
    share = torch.tensor([1.0, 1 - 2.0**-24])
    (_, slope, _, _) = mechanism.weight_derivatives(share, share, share, share)
    assert slope[0] == slope[1] == pytest.approx(1.03)


def test_swat_slopes_follow_equation_4():
    from attention.mechanisms.swat import head_slopes

    assert head_slopes(6, "balanced").tolist() == [-0.5, -0.25, -0.125, 0.5, 0.25, 0.125]
    assert head_slopes(8, "decay").tolist() == [-(2.0**-k) for k in range(1, 9)]


def test_a_negative_swat_slope_forgets_and_a_positive_one_remembers():
    query = torch.zeros(1, 12, 2, 4)
    weight = attention.weights(query, query, attention.get("swat", window=6))[0, :, -1, 6:]
    position = torch.arange(5, -1, -1)
    assert torch.allclose(weight[0], torch.sigmoid(-0.5 * position))
    assert torch.allclose(weight[1], torch.sigmoid(0.5 * position))
    assert not attention.weights(query, query, attention.get("swat", window=6))[0, :, -1, :6].any()


@pytest.mark.parametrize("number", [torch.nan, torch.inf])
@kernels
@pytest.mark.parametrize("name", attention.names())
def test_rows_that_do_not_see_a_key_that_is_not_finite_are_as_without_it(
    name: str, kernel: str, number: float
) -> None:
    """Whether it is later, or of another document."""
    if kernel in ("sdpa", "flash"):
        pytest.skip("its kernels are torch's or the vendor's, which mix such keys in with a weight of zero")
    short = {"simrf": {"chunk": 8}, "soft_lowrank": {"chunk": 8, "landmarks": 4}}
    mechanism = attention.get(name, **short.get(name, {}))
    query = torch.randn(1, 30, 1, 8, generator=torch.Generator().manual_seed(0))
    key = query.clone()
    key[:, 11] = number
    documents = torch.arange(30)[None] // 20
    told = {"params": mechanism.initial_values(1, 8), "documents": documents, "kernel": kernel}
    try:
        expected = attention.attend(query, query, query, mechanism, **told)
    except attention.AttentionError as refusal:
        pytest.skip(str(refusal))
    found = attention.attend(query, key, query, mechanism, **told)
    blind = [*range(11), *range(20, 30)]
    torch.testing.assert_close(found[:, blind], expected[:, blind])
    assert not found[:, 11:20].isfinite().any()
