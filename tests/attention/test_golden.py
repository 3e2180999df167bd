"""Weights and score gradients of rows worked out by hand, in float64, through the formula and the row functions."""

import math

import pytest
import torch

import attention
from attention.core.masks import visibility

SPREAD_ROW = (1.5, -0.5, 0.25, 3.0, -2.0)
NARROW_ROW = (0.5, 0.1, 0.25, 0.9, -0.4)
GRAD_WEIGHTS = (1.0, -1.0, 0.5, 2.0, 0.0)

GOLDEN = {
    "softmax": (
        attention.get("softmax"),
        SPREAD_ROW,
        (0.168528, 0.022808, 0.048284, 0.755291, 0.005089),
        (-0.114674, -0.061135, -0.056997, 0.241358, -0.008552),
    ),
    "softpick": (
        attention.get("softpick", epsilon=0.0),
        SPREAD_ROW,
        (0.144412, 0, 0.011781, 0.791623, 0),
        (-0.136359, 0.043612, -0.065697, 0.221981, 0.009731),
    ),
    "softpick, narrow": (
        attention.get("softpick", epsilon=0.0),
        NARROW_ROW,
        (0.229457, 0.037200, 0.100462, 0.516271, 0),
        (-0.160388, -0.889324, -0.351995, 0.630707, 0.302306),
    ),
    "lssa": (
        attention.get("lssa", epsilon=0.0),
        SPREAD_ROW,
        (0.275446, 0.076749, 0.133713, 0.493543, 0.020549),
        (-0.033439, -0.137683, -0.068499, 0.115254, -0.024173),
    ),
    "lssar": (
        attention.get("lssar", power=3, epsilon=0.0),
        SPREAD_ROW,
        (0.016695, 0, 0, 0.983305, 0),
        (-0.073560, 0.005929, 0.008828, 0.040831, 0.001872),
    ),
    "lssar, narrow": (
        attention.get("lssar", power=3, epsilon=0.0),
        NARROW_ROW,
        (0.026243, 0, 0, 0.973757, 0),
        (-0.358836, 0.049282, 0.052774, 0.209628, 0.037673),
    ),
    "relu_softmax": (
        attention.get("relu_softmax", epsilon=0.0),
        SPREAD_ROW,
        (0.152363, 0, 0.012429, 0.835208, 0),
        (-0.162586, 0, -0.074677, 0.150310, 0),
    ),
    "rectified": (
        attention.get("rectified"),
        SPREAD_ROW,
        (0.173364, 0, 0.049670, 0.776966, 0),
        (-0.130393, 0, -0.062193, 0.192586, 0),
    ),
    "stablemax": (
        attention.get("stablemax"),
        SPREAD_ROW,
        (0.285714, 0.076190, 0.142857, 0.457143, 0.038095),
        (-0.022313, -0.111504, -0.079456, 0.091973, -0.015178),
    ),
    "softmax1": (
        attention.get("softmax1"),
        SPREAD_ROW,
        (0.162421, 0.021981, 0.046534, 0.727918, 0.004905),
        (-0.100627, -0.057581, -0.052097, 0.276942, -0.007943),
    ),
    "swat": (
        attention.get("swat"),
        SPREAD_ROW,
        (0.817574, 0.377541, 0.562177, 0.952574, 0.119203),
        (0.149146, -0.235004, 0.123067, 0.090353, 0),
    ),
    "gaussian, row": (
        attention.get("gaussian", norm="row"),
        SPREAD_ROW,
        (0.168528, 0.022808, 0.048284, 0.755291, 0.005089),
        (-0.114674, -0.061135, -0.056997, 0.241358, -0.008552),
    ),
    "gaussian": (
        attention.get("gaussian"),
        (-1.5, -0.5, -0.25, -3.0, 0.0),
        (0.223130, 0.606531, 0.778801, 0.049787, 1.0),
        (0.223130, -0.606531, 0.389400, 0.099574, 0),
    ),
}

CALLS = {
    "sigmoid": (
        attention.get("sigmoid"),
        {},
        (0.472668, 0.108183, 0.204332, 0.800682, 0.026354),
        (0.249253, -0.096479, 0.081290, 0.319181, 0),
    ),
    "sigmoid, one key long": (
        attention.get("sigmoid", length=1),
        {},
        (0.817574, 0.377541, 0.562177, 0.952574, 0.119203),
        (0.149146, -0.235004, 0.123067, 0.090353, 0),
    ),
    "relu": (attention.get("relu"), {}, (0.3, 0, 0.05, 0.6, 0), (0.2, 0, 0.1, 0.4, 0)),
    "softmax_sink": (
        attention.get("softmax_sink"),
        {"sink": 1.0},
        (0.152899, 0.020693, 0.043806, 0.685247, 0.004617),
        (-0.080211, -0.052241, -0.044884, 0.325764, -0.007039),
    ),
    "ssmax": (
        attention.get("ssmax"),
        {"length_scale": 0.43},
        (0.218145, 0.054655, 0.091844, 0.616001, 0.019355),
        (-0.066640, -0.092345, -0.059837, 0.238130, -0.019308),
    ),
    "ssmax, not learned": (
        attention.get("ssmax", learned=False),
        {},
        (0.080921, 0.003237, 0.010823, 0.904729, 0.000290),
        (-0.116245, -0.015069, -0.024257, 0.156452, -0.000882),
    ),
    "scalable_softpick": (
        attention.get("scalable_softpick", epsilon=0.0),
        {"length_scale": 0.43},
        (0.181862, 0, 0.018835, 0.695404, 0),
        (-0.113430, 0.077242, -0.088778, 0.229964, 0.027354),
    ),
}
"""Mechanisms that put more into the scores than a dot product: options, parameters, weights and gradients of s."""

CALLS |= {
    "entmax15": (
        attention.get("entmax15"),
        {},
        (0.050391, 0, 0, 0.949609, 0),
        (-0.182450, 0, 0, 0.182450, 0),
    ),
    "sa_softmax, version 1": (
        attention.get("sa_softmax", version=1),
        {},
        (0.252792, -0.011404, 0.012071, 2.265872, -0.010178),
        (-0.387948, -0.120926, -0.201682, 2.415438, -0.024438),
    ),
    "sa_softmax": (
        attention.get("sa_softmax"),
        {},
        (0.117970, 0.006842, 0.021728, 0.755291, 0),
        (-0.123459, -0.048639, -0.063135, 0.253116, -0.017883),
    ),
    "clipped_softmax": (
        attention.get("clipped_softmax"),
        {},
        (0.143584, 0, 0.019733, 0.747950, 0),
        (-0.122073, -0.040013, -0.059841, 0.230855, -0.008928),
    ),
    "weighted_softpick at 1": (
        attention.get("weighted_softpick", epsilon=0.0),
        {},
        (0.144412, 0, 0.011781, 0.791623, 0),
        (-0.136359, 0.043612, -0.065697, 0.221981, 0.009731),
    ),
    "weighted_softpick towards 0": (
        attention.get("weighted_softpick", epsilon=0.0),
        {"negative_weight": -40.0},
        (0.152363, 0, 0.012429, 0.835208, 0),
        (-0.162586, 0, -0.074677, 0.150310, 0),
    ),
}

NARROW_CALLS = {
    "sparsemax": (
        attention.get("sparsemax"),
        {},
        (0.283333, 0, 0.033333, 0.683333, 0),
        (-0.166667, 0, -0.666667, 0.833333, 0),
    ),
    "entmax15": (
        attention.get("entmax15"),
        {},
        (0.256966, 0.094199, 0.145862, 0.499734, 0.003240),
        (0.040043, -0.589592, -0.160790, 0.762761, -0.052422),
    ),
    "adaptive_softmax, gradient": (
        attention.get("adaptive_softmax", when="gradient"),
        {},
        (0.227475, 0.107978, 0.142786, 0.479218, 0.042544),
        (-0.066192, -0.419615, -0.164337, 0.722413, -0.072270),
    ),
    "adaptive_softmax": (
        attention.get("adaptive_softmax"),
        {},
        (0.227475, 0.107978, 0.142786, 0.479218, 0.042544),
        (-0.063275, -0.432315, -0.172707, 0.759380, -0.091084),
    ),
}
"""The same on the row of smaller scores."""


@pytest.mark.parametrize("case", GOLDEN)
def test_formula(case):
    mechanism, row, expected, expected_gradient = GOLDEN[case]
    score = torch.tensor(row, dtype=torch.float64)[None, None, None].requires_grad_()
    weight = mechanism.weights(score, torch.ones_like(score, dtype=torch.bool))
    (gradient,) = torch.autograd.grad(
        weight, score, torch.tensor(GRAD_WEIGHTS, dtype=torch.float64)[None, None, None]
    )
    assert _distance(weight, expected) < 1e-6
    assert _distance(gradient, expected_gradient) < 1e-6


@pytest.mark.parametrize("case", GOLDEN)
def test_row_functions(case):
    mechanism, row, expected, expected_gradient = GOLDEN[case]
    visible = visibility(1, len(row))
    (tile,) = visible.tiles(1)
    score = torch.tensor(row, dtype=torch.float64)[None, None, None, None]
    grad_weights = torch.tensor(GRAD_WEIGHTS, dtype=torch.float64).expand_as(score)
    count = visible.count[:, None, None, :, None]
    weight, gradient = mechanism.form.row_gradients(mechanism, score.clone(), tile, count, grad_weights, None)
    assert _distance(weight, expected) < 1e-6
    assert _distance(mechanism.form.row_weights(mechanism, score.clone(), tile, count)[0], expected) < 1e-6
    assert _distance(gradient, expected_gradient) < 1e-6


ROWS = [(SPREAD_ROW, CALLS, case) for case in CALLS] + [
    (NARROW_ROW, NARROW_CALLS, case) for case in NARROW_CALLS
]


@pytest.mark.parametrize("kernel", ["dense", "tiled"])
@pytest.mark.parametrize(("row", "cases", "case"), ROWS, ids=lambda x: x if isinstance(x, str) else "")
def test_call(row, cases, case, kernel):
    """A query of one channel at scale 1, whose keys are the scores and whose values are dP."""
    mechanism, params, expected, expected_gradient = cases[case]
    query = torch.ones(1, 1, 1, 1, dtype=torch.float64)
    key, value = (torch.tensor(x, dtype=torch.float64)[None, :, None, None] for x in (row, GRAD_WEIGHTS))
    learned = {name: torch.tensor([x], dtype=torch.float64) for name, x in params.items()}
    given = {"params": attention.get(mechanism).initial_values(1, 1) | learned}
    weight = attention.weights(query, key, mechanism, scale=1.0, kernel=kernel, **given)
    assert _distance(weight, expected) < 1e-6
    out = attention.attend(query, key.requires_grad_(), value, mechanism, scale=1.0, kernel=kernel, **given)
    (gradient,) = torch.autograd.grad(out.sum(), key)
    assert _distance(gradient, expected_gradient) < 1e-6


def test_lssar_equals_the_literal_formula_in_float64():
    score = torch.linspace(-4, 4, 64, dtype=torch.float64)
    positive = torch.log1p(score.exp())
    literal = torch.relu(64 * positive / positive.sum() - 1) ** 15
    mechanism = attention.get("lssar", power=15, epsilon=0.0)
    weight = mechanism.weights(score[None], torch.ones(1, 64, dtype=torch.bool))[0]
    assert torch.allclose(weight, literal / literal.sum(), rtol=1e-12, atol=0)


def test_gaussian_scores_are_squared_distances():
    query, key = torch.randn(1, 5, 2, 4).double(), torch.randn(1, 5, 2, 4).double()
    mechanism = attention.get("gaussian", normalise=False)
    weight = attention.weights(query, key, mechanism, params={"sharpness": torch.zeros(2)}, kernel="dense")
    beta = torch.log(torch.tensor(2.0, dtype=torch.float64))
    distance = torch.cdist(query.transpose(1, 2), key.transpose(1, 2))
    expected = torch.exp(-beta * distance**2 / (2 * 4**0.5)).tril()
    assert torch.allclose(weight, expected, atol=1e-12)


@pytest.mark.parametrize("normalise", [True, False])
@pytest.mark.parametrize("norm", ["none", "row"])
def test_the_expanded_gaussian_is_the_stated_one(normalise, norm):
    """With grouped heads and another sharpness for each."""
    query, key = 3 * torch.randn(1, 5, 4, 8).double(), 3 * torch.randn(1, 5, 2, 8).double()
    mechanism = attention.get("gaussian", normalise=normalise, norm=norm)
    params = {"sharpness": torch.randn(4).double()}
    stated = attention.weights(query, key, mechanism, kernel="dense", params=params)
    expanded = attention.weights(query, key, mechanism, kernel="tiled", params=params)
    assert torch.allclose(expanded, stated, atol=1e-13)


def test_row_normalised_gaussian_is_softmax_with_a_key_bias():
    query, key = torch.randn(1, 6, 1, 4).double(), torch.randn(1, 6, 1, 4).double()
    gaussian = attention.get("gaussian", normalise=False, norm="row")
    score = (query[0, :, 0] @ key[0, :, 0].T - 0.5 * key[0, :, 0].square().sum(-1)) / 2
    score = score.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    weight = attention.weights(query, key, gaussian, kernel="dense")
    assert torch.allclose(weight[0, 0], score.softmax(-1), atol=1e-7)


def _distance(actual: torch.Tensor, expected: tuple[float, ...]) -> float:
    return float((actual.detach().flatten() - torch.tensor(expected, dtype=torch.float64)).abs().max())


def test_the_scores_of_lssa_are_cosines_times_ln_d_and_ln_n():
    """Computed here from the paper's words; every kernel takes its scores from the mechanism, and could not tell."""
    generator = torch.Generator().manual_seed(0)
    query, key = (torch.randn(1, 7, 1, 12, dtype=torch.float64, generator=generator) for _ in range(2))
    cosine = torch.nn.functional.cosine_similarity(query[0, :, None, 0], key[0, None, :, 0], dim=-1)
    count = torch.arange(1, 8, dtype=torch.float64)[:, None]
    positive = torch.nn.functional.softplus(math.log(12) * count.log() * cosine).tril()
    weight = attention.weights(query, key, "lssa", kernel="dense")
    assert torch.allclose(weight[0, 0], positive / positive.sum(-1, keepdim=True), rtol=1e-6, atol=1e-9)
