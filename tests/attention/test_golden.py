"""Weights and score gradients of rows worked out by hand, in float64, through the formula and the row functions."""

import pytest
import torch

import attention
from attention.kernels.rows import rows_of
from attention.masks import visibility

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
    weight, gradient = rows_of(mechanism).gradients(mechanism, score.clone(), tile, count, grad_weights, None)
    assert _distance(weight, expected) < 1e-6
    alone, _ = rows_of(mechanism).weights(mechanism, score.clone(), tile, count)
    assert _distance(alone, expected) < 1e-6
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


def test_row_normalised_gaussian_is_softmax_with_a_key_bias():
    query, key = torch.randn(1, 6, 1, 4).double(), torch.randn(1, 6, 1, 4).double()
    gaussian = attention.get("gaussian", normalise=False, norm="row")
    score = (query[0, :, 0] @ key[0, :, 0].T - 0.5 * key[0, :, 0].square().sum(-1)) / 2
    score = score.masked_fill(torch.ones(6, 6).triu(1).bool(), -torch.inf)
    weight = attention.weights(query, key, gaussian, kernel="dense")
    assert torch.allclose(weight[0, 0], score.softmax(-1), atol=1e-7)


def _distance(actual: torch.Tensor, expected: tuple[float, ...]) -> float:
    return float((actual.detach().flatten() - torch.tensor(expected, dtype=torch.float64)).abs().max())
