"""Random features: that their mean is the softmax kernel, and that coupling makes them better."""

import math

import pytest
import torch
from torch.nn.functional import scaled_dot_product_attention

from attention import AttentionError, attend, get, weights
from attention.mechanisms.simrf import COUPLINGS, directions, simplex

couplings = pytest.mark.parametrize("coupling", COUPLINGS)


def _draw(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def _estimates(coupling, x, y, seeds):
    """phi(x) . phi(y) of pairs [N, D] under one block of D features, [seeds, N]."""
    found = []
    for seed in range(seeds):
        rows = directions(coupling, x.shape[-1], x.shape[-1], seed)
        exponents = [z @ rows.T - 0.5 * z.square().sum(-1, keepdim=True) for z in (x, y)]
        found.append((exponents[0] + exponents[1]).exp().mean(-1))
    return torch.stack(found)


@pytest.mark.parametrize("size", [2, 3, 8, 64])
def test_simplex_rows_have_length_one_and_equal_angles(size):
    rows = simplex(size)
    expected = torch.full((size, size), -1 / (size - 1), dtype=torch.float64).fill_diagonal_(1)
    torch.testing.assert_close(rows @ rows.T, expected, rtol=0, atol=1e-14)


@pytest.mark.parametrize(("coupling", "cosine"), [("simplex", -1 / 7), ("orthogonal", 0.0)])
def test_rows_are_coupled_within_a_block_and_not_beyond(coupling, cosine):
    rows = directions(coupling, 20, 8, seed=3)
    assert rows.shape == (20, 8)
    unit = rows / rows.norm(dim=-1, keepdim=True)
    gram = unit @ unit.T
    for start, stop in ((0, 8), (8, 16), (16, 20)):
        block = gram[start:stop, start:stop]
        expected = torch.full_like(block, cosine).fill_diagonal_(1)
        torch.testing.assert_close(block, expected, rtol=0, atol=1e-12)
    assert (gram[:8, 8:16] - cosine).abs().max() > 0.1


@couplings
def test_norms_are_those_of_gaussian_vectors(coupling):
    squares = torch.cat([directions(coupling, 64, 16, seed) for seed in range(60)]).square().sum(-1)
    assert float(squares.mean()) == pytest.approx(16, rel=0.03)
    assert float(squares.var()) == pytest.approx(32, rel=0.15)


@pytest.mark.slow
@couplings
def test_the_mean_over_seeds_is_the_kernel(coupling):
    x, y = 0.3 * _draw(5, 8), 0.3 * _draw(5, 8, seed=1)
    found = _estimates(coupling, x, y, 3000)
    error = (found.mean(0) - (x * y).sum(-1).exp()).abs()
    assert (error < 4 * found.std(0) / math.sqrt(3000)).all()


@pytest.mark.slow
def test_a_simplex_errs_less_than_orthogonal_rows_and_those_less_than_none():
    x, y = 0.5 * _draw(40, 8), 0.5 * _draw(40, 8, seed=1)
    kernel = (x * y).sum(-1).exp()
    errors = [float((_estimates(coupling, x, y, 2000) - kernel).square().mean()) for coupling in COUPLINGS]
    assert errors[0] < errors[1] < errors[2]


@pytest.mark.slow
@couplings
@pytest.mark.parametrize("causal", [True, False])
def test_many_features_are_softmax(coupling, causal):
    query, key, value = (scale * _draw(1, 30, 2, 8, seed=seed) for seed, scale in enumerate((0.6, 0.6, 1)))
    out = attend(query, key, value, get("simrf", coupling=coupling, features=20_000, chunk=16), causal=causal)
    expected = scaled_dot_product_attention(
        *(x.transpose(1, 2) for x in (query, key, value)), is_causal=causal
    )
    assert (out - expected.transpose(1, 2)).norm() < 0.1 * expected.norm()


def test_the_seed_decides():
    query = _draw(1, 9, 1, 8)
    first, again, other = (weights(query, query, get("simrf", seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_the_chunk_changes_nothing_but_rounding():
    query, key, value = (_draw(1, 50, 2, 8, seed=seed) for seed in range(3))
    outs = [attend(query, key, value, get("simrf", chunk=chunk)) for chunk in (1, 7, 16, 64)]
    for out in outs[1:]:
        torch.testing.assert_close(out, outs[0], rtol=1e-10, atol=1e-12)


def test_a_large_key_early_on_does_not_drown_what_follows():
    """Exponents are relative to the largest so far: they reach thousands here, and nothing overflows."""
    query, key, value = (_draw(1, 60, 1, 8, seed=seed).float() for seed in range(3))
    key[:, 3] *= 40
    out = attend(query, key, value, get("simrf", chunk=8))
    assert torch.isfinite(out).all()


def test_one_dimension_has_no_simplex():
    with pytest.raises(AttentionError, match="at least 2, got 1; use coupling='iid'"):
        attend(*[torch.zeros(1, 2, 1, 1)] * 3, "simrf")
