import torch

from models.rope import rotate, rotations


def rotated(heads, start=0, theta=100.0):
    return rotate(heads, rotations(start, heads.shape[1], heads.shape[-1], theta, like=heads))


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
