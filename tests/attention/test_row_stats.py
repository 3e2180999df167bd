"""Row statistics at the edges: weights that may be negative, rows of hardly any mass."""

from dataclasses import dataclass
from itertools import chain

import pytest
import torch
from torch import Tensor

import attention
from attention import CallSpec, Phase, statistics
from attention.core.inputs import example, prepare
from attention.forms.pointwise import Pointwise
from attention.kernels import dispatch
from attention.kernels.kernel import obstacle


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
        share = weight.abs() / magnitude.where(magnitude > 0, 1)[..., None]
        expected = {
            "mass": weight.sum(-1),
            "magnitude": magnitude,
            "entropy": torch.special.entr(share).sum(-1),
            "first": weight[..., 0],
            "zeros": ((weight == 0) & visible).sum(-1).float(),
            "small": ((weight.abs() <= 1e-5) & visible).sum(-1).float(),
            "key_mass": weight.sum(-2).double(),
            "key_mass_renormalised": (weight.abs() / (magnitude + 1e-8)[..., None]).sum(-2).double(),
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


@pytest.mark.parametrize("mass", [1.0, 1e-3, 1e-6, 2e-8, 1.01e-8])
def test_the_entropy_of_a_row_does_not_depend_on_its_mass(mass: float) -> None:
    """By the definition, p = |W| / sum |W|, however little the row sums to."""
    generator = torch.Generator().manual_seed(0)
    key = torch.randn(1, 9, 1, 1, generator=generator)
    key *= mass / key.abs().sum()
    stats = attention.row_stats(torch.ones_like(key), key, Linear(), causal=False, scale=1.0)
    share = key.double().abs().flatten() / key.double().abs().sum()
    expected = torch.special.entr(share).sum().float().expand(9)
    torch.testing.assert_close(stats.entropy[0, 0], expected, rtol=1e-6, atol=0)
    torch.testing.assert_close(stats.magnitude[0, 0], torch.full((9,), mass), rtol=1e-6, atol=0)
    kept = mass / (mass + 1e-8)
    torch.testing.assert_close(stats.key_mass_renormalised[0, 0], 9 * kept * share, rtol=1e-6, atol=0)


@pytest.mark.parametrize("mass", [1.0, 1e-6, 2e-8])
def test_one_key_has_no_entropy(mass: float) -> None:
    key = torch.full((1, 1, 1, 1), mass)
    stats = attention.row_stats(torch.ones_like(key), key, Linear(), scale=1.0)
    assert stats.entropy.item() == pytest.approx(0, abs=1e-6)


def test_rows_below_the_floor_have_no_entropy() -> None:
    key = torch.full((1, 4, 1, 1), 2.4e-9)
    stats = attention.row_stats(torch.ones_like(key), key, Linear(), causal=False, scale=1.0)
    assert not stats.entropy.any()
    assert stats.magnitude.all()


@pytest.mark.parametrize("mechanism", [Signed(), "softmax", "softpick"])
def test_a_key_contributes_its_weight_times_the_norm_of_its_value(small_tiles, mechanism):
    generator = torch.Generator().manual_seed(0)
    query = torch.randn(2, 12, 4, 8, generator=generator)
    key = torch.randn(2, 12, 2, 8, generator=generator)
    value = torch.randn(2, 12, 2, 5, generator=generator) * torch.rand(2, 12, 1, 1, generator=generator)
    value[:, 3] = 0.0
    stats = attention.row_stats(query, key, mechanism, value=value, window=7)
    weight = attention.weights(query, key, mechanism, kernel="dense", window=7)
    norm = value.norm(dim=-1).repeat_interleave(2, 2).transpose(1, 2)[:, :, None]
    given = weight.abs() * norm
    whole = given.sum(-1, keepdim=True)
    expected = (given / whole.where(whole > 0, 1)).sum(-2).double()
    torch.testing.assert_close(stats.key_contribution, expected, rtol=1e-4, atol=1e-6)
    assert not stats.key_contribution[:, :, 3].any()
    plain = attention.row_stats(query, key, mechanism, window=7)
    assert plain.key_contribution is None
    for name, found in vars(plain).items():
        assert found is None or torch.equal(found, getattr(stats, name)), name


@pytest.fixture
def compiled() -> None:
    """Skip where there is no compiled kernel."""
    if reason := obstacle(dispatch.KERNELS["cpu"], example(attention.get("softmax"))):
        pytest.skip(reason)


@pytest.mark.usefixtures("compiled")
@pytest.mark.parametrize(
    "mechanism", ["clipped_softmax", "entmax15", "gumbel_softmax", "lssar", "softpick", "swat", "gaussian"]
)
def test_a_compiled_sweep_finds_what_the_blocks_find(mechanism: str) -> None:
    """Over several blocks of rows, the later ones without the first keys, with biases, slopes and noise."""
    generator = torch.Generator().manual_seed(0)
    query = 2 * torch.randn(2, 200, 4, 20, generator=generator)
    key, value = torch.randn(2, 2, 230, 2, 20, generator=generator)
    spec = CallSpec(window=70, phase=Phase(training=True, progress=0.5, seed=torch.tensor(3)))
    inputs = prepare(query, key, value, attention.get(mechanism), spec)
    found, expected = statistics._compiled(inputs), statistics._streamed(inputs)
    assert found is not None
    names = (*statistics.ROWS, *statistics.KEYS)
    for name, x, y in zip(names, chain(*found), chain(*expected), strict=True):
        if name in ("zeros", "small"):  # a weight on the edge may fall on either side of it
            assert (x - y).abs().sum() <= 2, name
        else:
            torch.testing.assert_close(x, y, rtol=1e-4, atol=1e-5, msg=name)


@pytest.mark.usefixtures("compiled")
def test_half_types_have_the_statistics_of_their_numbers_in_float32() -> None:
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 40, 2, 16, generator=generator).bfloat16()
    found = attention.row_stats(query, key, "softpick", value=value)
    expected = attention.row_stats(query.float(), key.float(), "softpick", value=value.float())
    for name, x in vars(expected).items():
        assert torch.equal(getattr(found, name), x), name


def test_a_score_that_is_no_number_is_the_largest() -> None:
    """And infinite keys do not exist for rows that do not see them."""
    query, key = torch.ones(2, 1, 90, 1, 8)
    key[:, 60] = torch.inf
    query[:, 70] = torch.nan
    largest = attention.row_stats(query, key, "softmax").max_score[0, 0]
    assert largest[:60].tolist() == pytest.approx([8**0.5] * 60)
    assert largest[70].isnan()
    assert largest[[60, 69, 71]].isinf().all()
