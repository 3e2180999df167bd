"""Loss by length and position: same tokens at every length, bins that add up, reasons for what is skipped."""

from pathlib import Path

import pytest
import torch

from eval import lengths
from eval.lengths import Settings, curve
from eval.subject import open_subject
from eval.text import cut
from models import ModelError


def test_every_length_scores_the_same_tokens(run_path: Path) -> None:
    subject = open_subject(run_path)
    result = lengths.run(subject, Settings(tokens=512))
    measured = result["results"]["lengths"]
    assert list(measured) == ["32", "64", "128"]
    assert {entry["tokens"] for entry in measured.values()} == {512}
    segments = cut(subject, 128, 4, bos=False, least=4).tokens
    for length, entry in measured.items():
        windows = segments.reshape(-1, int(length))
        with_bos = torch.cat([torch.full_like(windows[:, :1], subject.bos), windows], 1)
        nats = subject.losses(with_bos).double()
        assert entry["loss"] == pytest.approx(nats.mean().item())
        assert entry["loss_last"] == pytest.approx(nats[:, -32:].mean().item())
        assert entry["windows"] == len(windows)
        assert entry["per_window"] == pytest.approx(nats.mean(1).tolist())
    assert measured["32"]["loss"] == pytest.approx(measured["32"]["loss_last"])


def test_the_curve_adds_up_to_the_loss(run_path: Path) -> None:
    for entry in lengths.run(open_subject(run_path), Settings(tokens=512))["results"]["lengths"].values():
        bins = entry["curve"]
        total = sum(loss * tokens for loss, tokens in zip(bins["loss"], bins["tokens"], strict=True))
        assert total / sum(bins["tokens"]) == pytest.approx(entry["loss"])
        assert sum(bins["tokens"]) == entry["tokens"]


def test_bins_of_the_curve() -> None:
    nats = torch.arange(1.0, 13.0).repeat(2, 1)
    assert curve(nats) == {
        "start": [1, 2, 3, 5, 9],
        "end": [1, 2, 4, 8, 12],
        "loss": [1.0, 2.0, 3.5, 6.5, 10.5],
        "tokens": [2, 2, 4, 8, 8],
    }
    assert curve(torch.ones(1, 8))["end"] == [1, 2, 4, 8]
    assert curve(torch.ones(1, 1))["end"] == [1]


def test_longer_context_makes_no_difference_to_the_first_tokens(run_path: Path) -> None:
    measured = lengths.run(open_subject(run_path), Settings(tokens=128, multiples=(1, 4)))["results"][
        "lengths"
    ]
    subject = open_subject(run_path)
    segment = cut(subject, 128, 1, bos=False, least=4).tokens
    first = subject.losses(torch.cat([torch.tensor([[subject.bos]]), segment], 1))[0, :2]
    assert measured["128"]["curve"]["loss"][:2] == pytest.approx(first.tolist())


def test_what_cannot_be_measured_is_skipped_with_a_reason(run_path: Path) -> None:
    skipped = lengths.run(open_subject(run_path), Settings())["results"]["skipped"]
    assert [(entry["length"], entry["multiple"]) for entry in skipped] == [(256, 8), (512, 16)]
    assert {entry["reason"] for entry in skipped} == {"the model is limited to 128 positions"}
    skipped = lengths.run(open_subject(run_path), Settings(tokens=64))["results"]["skipped"]
    assert skipped[0] == {"length": 128, "multiple": 4, "reason": "longer than --tokens 64"}
    with pytest.raises(ModelError, match="no length can be measured for plain"):
        lengths.run(open_subject(run_path), Settings(multiples=(16,)))


def test_joined_documents_are_stated(run_path: Path, tmp_path: Path) -> None:
    long = lengths.run(open_subject(run_path), Settings(tokens=512))["protocol"]["segments"]
    assert long["documents_joined"] is False
    scraps = tmp_path / "scraps.jsonl"
    scraps.write_text('{"text": "the queen speaks of night and morning."}\n' * 60)
    subject = open_subject(run_path, text=str(scraps))
    assert lengths.run(subject, Settings(tokens=512))["protocol"]["segments"]["documents_joined"] is True


def test_bits_per_byte(run_path: Path) -> None:
    subject = open_subject(run_path)
    entry = lengths.run(subject, Settings(tokens=128, multiples=(4,)))["results"]["lengths"]["128"]
    text = subject.decode(cut(subject, 128, 1, bos=False, least=4).tokens[0].tolist())
    bits = entry["loss"] * 128 / torch.tensor(2.0).log().item()
    assert entry["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=1e-6)
