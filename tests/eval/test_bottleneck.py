"""Spectrum, ranks, anisotropy and truncation against formulas worked out here."""

import math
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional

from eval.analyses import bottleneck
from eval.analyses.bottleneck import MeanCosine, Settings, Spectrum, spectrum
from eval.subject import open_subject
from eval.windows import cut
from models import ModelError
from tests.eval.conftest import RunMaker
from tests.eval.measuring import measure, typed

SETTINGS = Settings(tokens=256, ranks=(1, 4, 999))


def noise(*shape: int) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(0))


def test_a_spectrum_of_equal_values_and_one_of_a_single_value() -> None:
    flat = Spectrum.of(spectrum(torch.linalg.qr(noise(64, 8)).Q)[0])
    assert flat.singular_entropy == pytest.approx(0, abs=1e-9)
    assert (flat.effective_rank, flat.stable_rank) == (pytest.approx(8), pytest.approx(8))
    single = Spectrum.of(spectrum(noise(64, 1) @ noise(1, 8))[0])
    assert single.singular_entropy == pytest.approx(math.log(8), abs=1e-4)
    assert (single.effective_rank, single.stable_rank) == (pytest.approx(1, abs=1e-4), pytest.approx(1))


@pytest.mark.parametrize("shape", [(64, 8), (8, 8), (5, 8)])
def test_a_spectrum_in_parts_is_that_of_the_whole(
    shape: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bottleneck, "LOGITS", 24)
    matrix = noise(*shape)
    values, directions = spectrum(matrix)
    torch.testing.assert_close(values, torch.linalg.svdvals(matrix.double()))
    # W projected on all right singular vectors is W.
    torch.testing.assert_close(matrix.double() @ directions.mT @ directions, matrix.double())


@pytest.mark.slow
@given(
    vectors=st.lists(st.lists(st.integers(-3, 3), min_size=3, max_size=3), min_size=2, max_size=12),
    first=st.integers(1, 11),
)
def test_the_mean_cosine_is_that_of_all_pairs(vectors: list[list[int]], first: int) -> None:
    table = torch.tensor(vectors, dtype=torch.float64)
    mean = MeanCosine()
    mean.add(table[:first])
    mean.add(table[first:])
    kept = table[table.any(-1)]
    assert mean.count == len(kept)
    if len(kept) < 2:
        assert mean.value is None
        return
    cosines = [
        float(functional.cosine_similarity(a, b, dim=0))
        for i, a in enumerate(kept)
        for j, b in enumerate(kept)
        if i != j
    ]
    assert mean.value == pytest.approx(sum(cosines) / len(cosines), abs=1e-9)


@pytest.mark.parametrize("tied", [True, False])
def test_a_run_is_measured_as_its_head_says(make_run: RunMaker, tied: bool) -> None:
    subject = open_subject(make_run(f"tied-{tied}", tie_embeddings=tied))
    got = measure(bottleneck, subject, SETTINGS)["results"]
    tokens = cut(subject, 32, 8).tokens
    model = subject.network
    head = (model.embedding if tied else model.head).weight
    with torch.no_grad():
        left, values, right = torch.linalg.svd(head.double(), full_matrices=False)
        states = model.hidden(tokens).double()
        cosine = functional.cosine_similarity(states.flatten(0, 1)[:, None], states.flatten(0, 1), dim=-1)
    assert got["spectrum"]["values"] == pytest.approx(values.tolist())
    shares = values / values.sum()
    entropy = -float((shares * shares.log()).sum())
    assert got["spectrum"]["singular_entropy"] == pytest.approx(math.log(32) - entropy)
    assert got["spectrum"]["stable_rank"] == pytest.approx(float((values**2).sum() / values[0] ** 2))
    n = len(cosine)
    assert got["anisotropy"]["states"] == pytest.approx((float(cosine.sum()) - n) / (n * (n - 1)), rel=1e-5)
    assert got["anisotropy"]["states_tokens"] == n == 256
    assert got["truncation"]["rank"] == [1, 4, 32]
    for rank, loss in zip(got["truncation"]["rank"], got["truncation"]["loss"], strict=True):
        cut_head = left[:, :rank] * values[:rank] @ right[:rank]
        logits = (states @ cut_head.mT)[:, :-1].flatten(0, 1)
        expected = functional.cross_entropy(logits, tokens[:, 1:].flatten())
        assert loss == pytest.approx(float(expected), rel=1e-5)
    assert got["loss"] == pytest.approx(float(subject.losses(tokens).double().mean()), rel=1e-6)
    assert got["truncation"]["delta_loss"][-1] == pytest.approx(0, abs=1e-6)
    assert bottleneck.row(typed(bottleneck, got))["rank"] == 32


def test_batches_of_any_size_agree(run_path: Path) -> None:
    one, many = (
        measure(bottleneck, open_subject(run_path, batch_tokens=size), SETTINGS)["results"]
        for size in (1, 100_000)
    )
    assert one["spectrum"] == many["spectrum"]
    assert many["loss"] == pytest.approx(one["loss"], rel=1e-6)
    assert many["truncation"]["loss"] == pytest.approx(one["truncation"]["loss"], rel=1e-6)
    assert many["anisotropy"]["states"] == pytest.approx(one["anisotropy"]["states"], rel=1e-6)


def test_what_it_cannot_do_is_refused(run_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ModelError, match="ranks of at least 1"):
        Settings(ranks=(0,))
    subject = open_subject(run_path)
    logits = type(subject).logits
    monkeypatch.setattr(type(subject), "logits", lambda self, tokens: 30 * (logits(self, tokens) / 30).tanh())
    with pytest.raises(ModelError, match="plain does more than multiply by its head"):
        measure(bottleneck, subject, SETTINGS)


def test_tokens_that_begin_a_document_are_not_scored(run_path: Path, tmp_path: Path) -> None:
    scraps = tmp_path / "scraps.jsonl"
    scraps.write_text('{"text": "the queen speaks of night and morning."}\n' * 60)
    subject = open_subject(run_path, text=str(scraps))
    tokens = cut(subject, 32, 8).tokens
    wanted = tokens[:, 1:] != subject.bos
    assert not wanted.all()
    measured = measure(bottleneck, subject, SETTINGS)
    expected = float(subject.losses(tokens)[wanted].double().mean())
    assert measured["results"]["loss"] == pytest.approx(expected, rel=1e-6)
    assert measured["results"]["truncation"]["loss"][-1] == pytest.approx(expected, rel=1e-5)
    assert "no target" in measured["protocol"]["windows"]["borders"]
