import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from models import ModelError
from models.rope import Rope, rotate

TRAINED = Rope(head_dim=64, theta=10_000.0)


def rotated(heads, start=0, theta=100.0):
    return rotate(heads, Rope(heads.shape[-1], theta).rotations(start, heads.shape[1], like=heads))


def test_pairs_of_channels_turn_by_position_times_frequency():
    heads = torch.randn(2, 5, 3, 8, dtype=torch.float64)
    frequency = 100.0 ** -(torch.arange(4) / 4)
    angle = (torch.arange(5) + 7.0)[:, None, None] * frequency
    turned = torch.complex(heads[..., :4], heads[..., 4:]) * torch.polar(torch.ones(1), angle)
    expected = torch.cat([turned.real, turned.imag], -1)
    torch.testing.assert_close(rotated(heads, start=7), expected, rtol=0, atol=1e-6)


def test_scores_depend_on_distance_alone():
    query, key = torch.randn(2, 1, 9, 1, 8, dtype=torch.float64).unbind()

    def scores(start):
        return torch.einsum("bthd,bshd->bts", rotated(query, start), rotated(key, start))

    torch.testing.assert_close(scores(0), scores(1000), rtol=0, atol=1e-10)


def test_half_precision_is_turned_in_float32():
    heads = torch.randn(1, 4096, 1, 8)
    exact = rotated(heads)
    half = rotated(heads.bfloat16())
    assert half.dtype == torch.bfloat16
    assert (half - exact).abs().max() < 0.03


@given(
    pairs=st.integers(1, 64),
    theta=st.floats(10, 1e6),
    factor=st.floats(1, 64),
    train_length=st.integers(1, 8192),
)
def test_rescaling_slows_every_pair_by_at_most_the_factor(pairs, theta, factor, train_length):
    rope = Rope(2 * pairs, theta)
    trained = rope.frequencies(dtype=torch.float64)
    for scaling in ("ntk", "yarn"):
        ratio = trained / rope.rescaled(scaling, factor, train_length).frequencies(dtype=torch.float64)
        assert bool((ratio >= 1 - 1e-9).all())
        assert bool((ratio <= factor * (1 + 1e-9)).all())
        # Slow pairs are slowed at least as much as fast ones.
        assert bool((ratio.diff() >= -1e-9 * factor).all())
        same = rope.rescaled(scaling, 1.0, train_length)
        torch.testing.assert_close(same.frequencies(dtype=torch.float64), trained, rtol=1e-12, atol=0)
        assert same.magnitude == 1


def test_ntk_keeps_the_fastest_pair_and_slows_the_slowest_by_the_factor():
    trained = TRAINED.frequencies(dtype=torch.float64)
    ratio = trained / TRAINED.rescaled("ntk", 8.0, 1024).frequencies(dtype=torch.float64)
    assert ratio[0] == 1
    assert ratio[-1].item() == pytest.approx(8.0, rel=1e-12)


def test_yarn_mixes_by_the_number_of_turns_in_the_training_length():
    length, factor = 1024, 4.0
    for index, got in enumerate(TRAINED.rescaled("yarn", factor, length).frequencies(dtype=torch.float64)):
        frequency = 10_000 ** (-2 * index / 64)
        wavelength = 2 * math.pi / frequency
        turns = length / wavelength
        ramp = 0 if turns < 1 else 1 if turns > 32 else (turns - 1) / 31
        assert got.item() == pytest.approx((1 - ramp) * frequency / factor + ramp * frequency, rel=1e-12)


def test_yarn_multiplies_scores_by_the_square_of_its_magnitude():
    query, key = torch.randn(2, 1, 9, 1, 64, dtype=torch.float64).unbind()
    yarn = TRAINED.rescaled("yarn", 4.0, 256)
    assert yarn.magnitude == pytest.approx(0.1 * math.log(4) + 1)
    length = rotate(query, yarn.rotations(0, 9, like=query)).norm(dim=-1) / query.norm(dim=-1)
    torch.testing.assert_close(length, torch.full_like(length, yarn.magnitude))
    diagonal = (rotate(query, yarn.rotations(0, 9, query)) * rotate(key, yarn.rotations(0, 9, key))).sum(-1)
    torch.testing.assert_close(diagonal, yarn.magnitude**2 * (query * key).sum(-1))


def test_mistakes():
    with pytest.raises(ModelError, match="unknown RoPE scaling 'yarm'; did you mean 'yarn'"):
        TRAINED.rescaled("yarm", 2.0, 256)
    with pytest.raises(ModelError, match="a factor of at least 1"):
        TRAINED.rescaled("ntk", 0.5, 256)


def test_a_model_takes_rescaled_frequencies(build, tokens):
    model = build()
    trained = model(tokens)
    model.rope = model.rope.rescaled("yarn", 4.0, 16)
    assert not torch.allclose(model(tokens), trained)
    model.rope = model.rope.rescaled("none", 1.0, 16)
    torch.testing.assert_close(model(tokens), trained, rtol=0, atol=0)
    assert build(position="none").rope is None
