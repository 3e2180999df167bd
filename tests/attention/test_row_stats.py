"""Row statistics of weights that may be negative, which no registered mechanism has to have."""

from dataclasses import dataclass

import torch
from torch import Tensor

import attention
from attention.mechanism import Pointwise


@dataclass(frozen=True)
class Signed(Pointwise):
    """w = s where |s| > 1/2, else 0."""

    name = "signed"
    formula = "s [|s| > 1/2]"
    paper = "none"

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        return score * (score.abs() > 0.5)

    def weight(self, score: Tensor) -> Tensor:
        return score * (score.abs() > 0.5)

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        return (score.abs() > 0.5).to(score.dtype)


@dataclass(frozen=True)
class Linear(Signed):
    """w = s, in the tensor of the scores itself."""

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        return score

    def weight(self, score: Tensor) -> Tensor:
        return score


def test_negative_weights_are_renormalised_by_their_magnitude(small_tiles):
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 2, 12, 3, 8, generator=generator)
    key[:, 0] = 0.0
    visible = torch.ones(12, 12).tril().bool()
    for mechanism in (Signed(), Linear()):
        stats = attention.row_stats(query, key, mechanism)
        weight = attention.weights(query, key, mechanism, kernel="dense")
        assert (weight < 0).any()
        magnitude = weight.abs().sum(-1)
        share = weight.abs() / (magnitude + 1e-8)[..., None]
        expected = {
            "mass": weight.sum(-1),
            "magnitude": magnitude,
            "entropy": torch.special.entr(share).sum(-1),
            "first": weight[..., 0],
            "zeros": ((weight == 0) & visible).sum(-1).float(),
            "small": ((weight.abs() <= 1e-5) & visible).sum(-1).float(),
            "key_mass": weight.sum(-2).double(),
            "key_mass_renormalised": share.sum(-2).double(),
        }
        for name, value in expected.items():
            torch.testing.assert_close(getattr(stats, name), value, rtol=1e-4, atol=1e-5, msg=name)
        # The first query sees the first key only, whose scores are 0: an empty row.
        assert not stats.magnitude[:, :, 0].any()
        assert not stats.entropy[:, :, 0].any()


def test_a_row_may_cancel_without_being_empty():
    query = torch.ones(1, 2, 1, 1)
    key = torch.tensor([3.0, -3.0]).view(1, 2, 1, 1)
    stats = attention.row_stats(query, key, Signed(), scale=1.0)
    assert stats.mass[0, 0].tolist() == [3.0, 0.0]
    assert stats.magnitude[0, 0].tolist() == [3.0, 6.0]
    torch.testing.assert_close(stats.entropy[0, 0], torch.tensor([1.0, 2.0]).log())
    assert stats.max_score[0, 0].tolist() == [3.0, 3.0]
    assert stats.audience.tolist() == [[2, 1]]
