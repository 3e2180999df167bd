"""What quantization does to a loss, against the losses themselves."""

import math
from collections import Counter
from pathlib import Path
from statistics import fmean

import pytest
import torch
from scipy import stats

from eval.quantization.scores import Scorer
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.windows import cut


@pytest.fixture
def scraps(run_path: Path, tmp_path: Path) -> Subject:
    """A run whose documents are shorter than a window."""
    text = tmp_path / "scraps.jsonl"
    text.write_text('{"text": "the queen speaks of night and morning."}\n' * 60)
    return open_subject(run_path, text=str(text))


def damage(subject: Subject) -> None:
    noise = torch.Generator().manual_seed(0)
    for parameter in subject.blocks.parameters():
        parameter.add_(0.1 * torch.randn(parameter.shape, generator=noise))


def test_tokens_that_begin_a_document_are_not_scored(scraps: Subject) -> None:
    windows = cut(scraps, 32, 8)
    counted = windows.tokens[:, 1:] != scraps.bos
    assert counted.sum(1).unique().numel() > 1
    scorer = Scorer(scraps, windows)
    before = scraps.losses(windows.tokens)[counted].double().mean().item()
    assert scorer.full_precision.loss == pytest.approx(before)
    assert scorer.full_precision.bits_per_byte == pytest.approx(windows.bits_per_byte(before))
    damage(scraps)
    after = scraps.losses(windows.tokens)[counted].double().mean().item()
    assert scorer.score().delta_loss == pytest.approx(after - before)


def test_the_interval_is_that_of_a_paired_t_test_over_documents(run_path: Path) -> None:
    """Two windows of each of six documents are six numbers."""
    subject = open_subject(run_path)
    windows = cut(subject, 32, 12)
    assert sorted(Counter(windows.documents).values()) == [2] * 6
    scorer = Scorer(subject, windows)
    before = subject.losses(windows.tokens).double().mean(1)
    damage(subject)
    after = subject.losses(windows.tokens).double().mean(1)
    of = torch.tensor(windows.documents)
    means = [
        [float(losses[of == number].mean()) for number in set(windows.documents)]
        for losses in (after, before)
    ]
    low, high = stats.ttest_rel(*means).confidence_interval(0.95)
    score = scorer.score()
    assert score.interval == pytest.approx((high - low) / 2)
    assert fmean((score.by_document or {}).values()) == pytest.approx(score.delta_loss)


def test_the_interval_of_unequal_windows_leaves_out_one_document_at_a_time(scraps: Subject) -> None:
    """The jackknife, written with losses: t(n - 1) sqrt((n - 1) / n sum (theta_(-g) - mean)^2)."""
    windows = cut(scraps, 32, 8)
    counted = windows.tokens[:, 1:] != scraps.bos
    scorer = Scorer(scraps, windows)
    before = scraps.losses(windows.tokens).double()
    damage(scraps)
    change = scraps.losses(windows.tokens).double() - before
    of = torch.tensor(windows.documents)
    found = of.unique()
    assert len(found) > 5
    without = torch.stack([change[of != number][counted[of != number]].mean() for number in found])
    variance = (len(found) - 1) / len(found) * (without - without.mean()).square().sum()
    half = stats.t.ppf(0.975, len(found) - 1) * math.sqrt(variance)
    assert scorer.score().interval == pytest.approx(half, rel=1e-6)


def test_one_window_or_no_difference_has_no_interval(run_path: Path) -> None:
    subject = open_subject(run_path)
    assert Scorer(subject, cut(subject, 32, 4)).score().interval is None
    scorer = Scorer(subject, cut(subject, 32, 1))
    damage(subject)
    assert scorer.score().interval is None
