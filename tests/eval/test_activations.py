"""Kurtosis and massive activations against formulas worked out here."""

from pathlib import Path

import pytest
import torch

from eval.analyses import activations
from eval.analyses.activations import Moments, Settings
from eval.subject import open_subject
from eval.windows import cut
from tests.eval.conftest import Scripted
from tests.eval.measuring import measure, typed

SETTINGS = Settings(length=8, sequences=4)


@pytest.mark.slow
def test_a_gaussian_has_kurtosis_three() -> None:
    noise = torch.randn(400_000, generator=torch.Generator().manual_seed(0))
    assert Moments.of(noise).kurtosis == pytest.approx(3, abs=0.05)


def test_one_outlier_by_the_formula() -> None:
    sample = torch.zeros(1000)
    sample[7] = 50.0
    # A two-point distribution with probability p of the rare point has kurtosis (1 - 3 p q) / (p q).
    p, q = 1e-3, 1 - 1e-3
    assert Moments.of(sample).kurtosis == pytest.approx((1 - 3 * p * q) / (p * q), rel=1e-9)


def test_moments_of_parts_are_moments_of_the_whole() -> None:
    sample = 1e4 + torch.randn(997, generator=torch.Generator().manual_seed(1), dtype=torch.float64) ** 3
    parts = sum((Moments.of(part) for part in sample.split([1, 300, 6, 690])), Moments())
    assert parts.kurtosis == pytest.approx(Moments.of(sample).kurtosis, rel=1e-9)
    assert parts.mean == pytest.approx(sample.mean().item(), rel=1e-12)
    assert Moments().kurtosis is None
    assert Moments.of(torch.ones(5)).kurtosis is None


def test_massive_activations_need_both_conditions() -> None:
    residual = torch.full((4, 8, 16), 0.05)
    residual[0, 0, 3] = 200.0  # massive
    residual[1, 2, 5] = -150.0  # massive
    residual[2] = 1.0
    residual[2, 0, 0] = 500.0  # large, but only 500 times its median
    residual[3, 0, 0] = 90.0  # 1800 times its median, but not above 100
    got = measure(activations, Scripted(residuals=[residual, residual, residual * 0 + 1]), SETTINGS)[
        "results"
    ]
    assert got["massive"]["count"] == 2
    assert got["massive"]["count_by_layer"] == [2, 0]
    assert got["massive"]["top"][0][0] == pytest.approx((200 + 150 + 500 + 90) / 4)
    assert got["massive"]["top"][0][1] == pytest.approx((0.05 + 0.05 + 1 + 0.05) / 4)
    assert got["massive"]["median"] == pytest.approx([(0.05 * 3 + 1) / 4, 1])
    assert got["range"] == {
        "min": -150.0,
        "max": 500.0,
        "min_by_layer": [-150.0, 1.0],
        "max_by_layer": [500.0, 1.0],
    }
    assert got["kurtosis"]["layers"][1] is None
    assert activations.row(typed(activations, got))["massive"] == 2


def test_massive_is_above_100_and_from_1000_medians_on() -> None:
    residual = torch.tensor([0.0625, 0.125, 1.0, 1.0])[:, None, None].repeat(1, 8, 16)
    residual[0, 0, 0] = 100.0  # 1600 medians, but not above 100
    residual[0, 1, 0] = 100.5
    residual[1, 0, 0] = 125.0  # exactly 1000 medians
    residual[1, 1, 0] = 124.5
    got = measure(activations, Scripted(residuals=[residual, residual]), SETTINGS)["results"]
    assert got["massive"]["count"] == 2


def test_a_run_is_measured_as_its_residual_stream_says(run_path: Path) -> None:
    subject = open_subject(run_path)
    settings = Settings(sequences=9)
    got = measure(activations, subject, settings)["results"]
    streams: dict[int, torch.Tensor] = {}
    with subject.trace(hidden=lambda layer, residual: streams.update({layer: residual.double()})):
        subject.observe(cut(subject, 32, 9).tokens)

    def kurtosis(x: torch.Tensor) -> float:
        x = x.flatten() - x.mean()
        return (x.numel() * x.pow(4).sum() / x.pow(2).sum() ** 2).item()

    assert (got["sequences"], got["tokens"]) == (9, 9 * 32)
    assert got["kurtosis"]["layers"] == pytest.approx([kurtosis(streams[0]), kurtosis(streams[1])])
    assert got["kurtosis"]["embeddings"] == pytest.approx(kurtosis(streams[-1]))
    assert got["kurtosis"]["pooled"] == pytest.approx(kurtosis(torch.stack([streams[0], streams[1]])))
    assert got["kurtosis"]["without_last"] == pytest.approx(kurtosis(streams[0]))
    for layer in (0, 1):
        each = torch.tensor([[kurtosis(token) for token in sequence] for sequence in streams[layer]])
        assert got["kurtosis"]["per_token"][layer] == pytest.approx(each.mean().item())
        assert got["kurtosis"]["first_token"][layer] == pytest.approx(each[:, 0].mean().item())
        magnitude = streams[layer].abs().flatten(1)
        top = magnitude.sort(descending=True).values[:, :3].mean(0)
        median = magnitude.median(1).values.mean()
        assert got["massive"]["top"][layer] == pytest.approx(top.tolist())
        assert got["massive"]["median"][layer] == pytest.approx(median.item())
        assert got["massive"]["ratio"][layer] == pytest.approx((top[0] / median).item())
        assert got["range"]["min_by_layer"][layer] == pytest.approx(streams[layer].min().item())
        assert got["range"]["max_by_layer"][layer] == pytest.approx(streams[layer].max().item())


def test_the_largest_activation_is_found() -> None:
    residual = torch.full((4, 8, 16), 0.05)
    residual[2, 5, 3] = -7.0
    got = measure(activations, Scripted(residuals=[residual, residual * 0 + 1, residual]), SETTINGS)[
        "results"
    ]
    assert got["largest"] == {"value": 7.0, "layer": 1, "sequence": 2, "token": 5, "dimension": 3}


def test_tokens_looked_at_a_few_at_a_time_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    residual = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0)) ** 3 + 5
    whole = measure(activations, Scripted(residuals=[residual] * 3), SETTINGS)["results"]
    monkeypatch.setattr(activations, "TOKENS", 3)
    parts = measure(activations, Scripted(residuals=[residual] * 3), SETTINGS)["results"]
    assert parts["kurtosis"]["pooled"] == pytest.approx(Moments.of(residual).kurtosis, rel=1e-12)
    for name, value in whole["kurtosis"].items():
        assert parts["kurtosis"][name] == pytest.approx(value, rel=1e-12), name
    assert parts["massive"] == whole["massive"]


def test_the_batch_changes_no_bit() -> None:
    residual = torch.randn(4, 8, 16, generator=torch.Generator().manual_seed(0)) ** 3
    results = []
    for batch_tokens in (8, 24, 10_000):
        subject = Scripted(residuals=[residual, residual.exp(), residual])
        subject.batch_tokens = batch_tokens
        results.append(measure(activations, subject, SETTINGS)["results"])
    assert results[0] == results[1] == results[2]


def test_batches_of_any_size_agree(run_path: Path) -> None:
    one, many = (
        measure(activations, open_subject(run_path, batch_tokens=size), Settings(sequences=9))["results"]
        for size in (1, 100_000)
    )
    for group in ("kurtosis", "massive", "range"):
        for name, value in one[group].items():
            torch.testing.assert_close(
                torch.tensor(many[group][name], dtype=torch.float64),
                torch.tensor(value, dtype=torch.float64),
                rtol=1e-5,
                atol=0,
            )
