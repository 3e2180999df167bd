"""SOFT through landmarks against linear algebra done plainly."""

import pytest
import torch
from torch.nn.functional import gelu, layer_norm, normalize

import attention
from attention import AttentionError, attend, get
from attention.core.lowrank import (
    ITERATIONS,
    ConvolutionalLandmarks,
    gaussian,
    inverse_softplus,
    newton,
    nystrom,
    pivots,
    pool,
    solve,
)

BETA = 2.0


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _drifting(length=1024, seed=0):
    """A walk in four of sixteen dimensions, on the unit sphere: queries near keys, as smooth heads have them."""
    walk = (0.25 * _draw(length, 4, seed=seed)).cumsum(0)
    basis = torch.linalg.qr(_draw(16, 4, seed=1))[0]
    return normalize(walk @ basis.T + 0.02 * _draw(length, 16, seed=2), dim=-1)[None, :, None]


def test_the_kernel_is_gaussian():
    x, y = _draw(2, 5, 7), _draw(2, 6, 7, seed=1)
    expected = (-(torch.cdist(x, y) ** 2) / 2).exp()
    torch.testing.assert_close(gaussian(x, y), expected)


@pytest.mark.slow
@pytest.mark.parametrize("inverse", ["cholesky", "newton"])
def test_solving_and_its_gradient(inverse):
    points, right = _draw(3, 6, 4).requires_grad_(), _draw(3, 6, 2, seed=1).requires_grad_()
    gram = gaussian(points, points)
    expected = torch.linalg.solve(gram + 0.05 * torch.eye(6, dtype=torch.float64), right)
    torch.testing.assert_close(solve(gram, right, 0.05, inverse), expected, rtol=0, atol=1e-9)
    assert torch.autograd.gradcheck(
        lambda points, right: solve(gaussian(points, points), right, 0.05, inverse),
        (points, right),
        atol=1e-6,
    )


@pytest.mark.parametrize("kernel", ["chunked", "dense"])
@pytest.mark.parametrize("number", [torch.nan, torch.inf])
def test_a_number_that_is_not_finite_goes_through_a_factorisation(number, kernel):
    mechanism = get("soft_lowrank", chunk=8, landmarks=4)
    query = torch.randn(2, 20, 1, 8, generator=torch.Generator().manual_seed(0))
    key = query.clone()
    key[0, 3] = number
    leaf = key.requires_grad_()
    out = attend(query, leaf, query, mechanism, kernel=kernel, params=mechanism.initial_values(1, 8))
    assert not out[0, 8:].isfinite().any()
    assert out[1].isfinite().all()
    assert torch.autograd.grad(out[1].sum(), leaf)[0][1].isfinite().all()


def test_a_factorisation_that_cannot_be_says_what_to_do():
    mechanism = get("soft_lowrank", chunk=8, landmarks=4, ridge=1e-12)
    same = torch.ones(1, 20, 1, 8)
    with pytest.raises(AttentionError, match="not positive definite: raise the ridge"):
        attend(same, same, same, mechanism)


def test_newton_refuses_what_it_has_not_inverted():
    points = 0.01 * _draw(49, 64)
    gram = gaussian(points, points)
    assert newton(gram + 0.01 * torch.eye(49)).isfinite().all()
    with pytest.raises(AttentionError, match=rf"not converged in {ITERATIONS} iterations: .*raise the ridge"):
        newton(gram + 1e-7 * torch.eye(49))


def test_pivots_are_those_of_a_pivoted_cholesky_factorisation():
    points = _draw(2, 12, 3)
    chosen = pivots(points, 5)
    for one, indices in zip(points, chosen, strict=True):
        gram, picked = gaussian(one, one), []
        for _ in range(5):
            known = gram[:, picked]
            rest = gram - known @ torch.linalg.pinv(gram[picked][:, picked]) @ known.T if picked else gram
            picked.append(int(rest.diagonal().argmax()))
        assert indices.tolist() == sorted(picked)


def test_without_causality_it_is_softs_formula():
    query, key, value = _draw(1, 40, 1, 8), _draw(1, 40, 1, 8, seed=1), _draw(1, 40, 1, 8, seed=2)
    points = [BETA**0.5 * normalize(x[0, :, 0], dim=-1) for x in (query, key)]
    landmarks = points[1].unflatten(0, (8, 5)).mean(1)
    gram, eye = gaussian(landmarks, landmarks), torch.eye(8)
    degree = gram.sum(-1).rsqrt().diag()
    inverse = torch.linalg.inv(gram + 0.01 * eye)
    for norm, middle in {"none": inverse, "symmetric": degree @ inverse @ degree}.items():
        weight = gaussian(points[0], landmarks) @ middle @ gaussian(landmarks, points[1])
        out = attend(query, key, value, get("soft_lowrank", landmarks=8, norm=norm), causal=False)
        torch.testing.assert_close(out[0, :, 0], weight @ value[0, :, 0], rtol=1e-6, atol=1e-8)


def test_landmarks_of_an_image():
    torch.manual_seed(0)
    module = ConvolutionalLandmarks(head_dim=6, height=4, width=8, ratio=2).double()
    query = _draw(2, 3, 32, 6)
    landmarks = module(query)
    assert landmarks.shape == (2, 3, 8, 6)
    square = query[1, 2].view(4, 8, 6)[2:4, 4:6]
    mixed = torch.einsum("yxc,ocyx->o", square, module.convolution.weight)
    torch.testing.assert_close(landmarks[1, 2, 6], gelu(layer_norm(mixed, (6,))))
    out = nystrom(query, query, query, landmarks, symmetric=True)
    assert out.shape == query.shape
    with pytest.raises(AttentionError, match="33 queries are not an image of 4 x 8"):
        module(_draw(1, 1, 33, 6))
    with pytest.raises(AttentionError, match="4 x 7 cannot be cut into squares of 2"):
        ConvolutionalLandmarks(6, 4, 7, 2)


def _exact(points, value):
    out = attend(points, points, value, get("gaussian", norm="row"), params=_gaussian_beta(points))
    return out


def _gaussian_beta(points):
    """The sharpness with which `gaussian` has soft_lowrank's kernel: its exponent is -beta sqrt(d) (1 - cos)."""
    beta = BETA / points.shape[-1] ** 0.5
    return {"sharpness": torch.tensor([beta], dtype=torch.float64).expm1().log()}


@pytest.mark.parametrize("far", ["blocks", "streaming"])
def test_with_every_key_a_landmark_it_is_exact(far):
    points, value = _draw(1, 24, 1, 5), _draw(1, 24, 1, 3, seed=1)
    landmarks = {
        "blocks": {"chunk": 8, "landmarks": 8, "summaries": 3},
        "streaming": {"chunk": 12, "landmarks": 12},
    }
    options = {**landmarks[far], "ridge": 1e-9}
    out = attend(points, points, value, get("soft_lowrank", far=far, **options))
    torch.testing.assert_close(out, _exact(points, value), rtol=0, atol=1e-5)


def test_one_chunk_is_exact():
    points, value = _draw(1, 16, 1, 5), _draw(1, 16, 1, 3, seed=1)
    sharpness = {"sharpness": torch.tensor([inverse_softplus(BETA)], dtype=torch.float64)}
    out = attend(points, points, value, get("soft_lowrank", chunk=16), params=sharpness)
    torch.testing.assert_close(out, _exact(points, value), rtol=0, atol=1e-9)


def test_more_landmarks_err_less_and_blocks_err_less_than_nothing():
    points, value = _drifting(), _draw(1, 1024, 1, 8, seed=3)
    exact = _exact(points, value)

    def error(**options):
        out = attend(points, points, value, get("soft_lowrank", **options))
        return float((out - exact).norm() / exact.norm())

    unmerged = [error(landmarks=count, summaries=16) for count in (4, 8, 16, 32)]
    assert unmerged == sorted(unmerged, reverse=True)
    assert unmerged[2] < 0.1
    nearly_local = error(summaries=1)
    assert error() < 0.5 * nearly_local
    assert error(far="streaming", landmarks=32) < 0.5 * nearly_local


def test_a_negative_mass_does_not_blow_up():
    """Far weights may be negative; the divisor is held above a thousandth."""
    query = normalize(_draw(1, 64, 1, 8), dim=-1)
    key = -query.flip(1) + 0.1 * _draw(1, 64, 1, 8, seed=1)
    sharp = {"sharpness": torch.full((1,), 12.0, dtype=torch.float64)}
    mechanism = get("soft_lowrank", chunk=8, landmarks=4)
    out = attend(query, key, _draw(1, 64, 1, 4, seed=2), mechanism, params=sharp)
    weight = attention.weights(
        query, key, get("soft_lowrank", chunk=8, landmarks=4, norm="none"), params=sharp
    )
    assert weight.min() < 0
    assert weight.sum(-1).min() < 1e-3
    assert out.abs().max() < 10


def test_pooling_of_a_ragged_length():
    points = torch.arange(7.0)[None, :, None]
    assert pool(points, 7).equal(points)
    assert pool(points, 9).equal(points)
    assert pool(points[:, :6], 3).flatten().tolist() == [0.5, 2.5, 4.5]
    assert pool(points, 2).flatten().tolist() == [1.5, 4.5]
