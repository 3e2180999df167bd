"""Loss by length and position: same tokens at every length, bins that add up, reasons for what is skipped."""

import math
from pathlib import Path

import pytest
import torch

from attention import get
from eval.analyses import lengths
from eval.analyses.lengths import Settings, curve, has_scale
from eval.subject import open_subject
from eval.subjects.run import RunSubject
from eval.windows import cut
from models import ModelError
from tests.eval.conftest import RunMaker, Scripted
from tests.eval.measuring import measure, typed


def test_every_length_scores_the_same_tokens(run_path: Path) -> None:
    subject = open_subject(run_path)
    result = measure(lengths, subject, Settings(tokens=512))
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
        assert entry["loss_tail"] == pytest.approx(nats.reshape(4, 128)[:, -32:].mean().item())
        assert entry["windows"] == len(windows)
        assert entry["per_window"] == pytest.approx(nats.mean(1).tolist())
    assert measured["32"]["loss"] == pytest.approx(measured["32"]["loss_last"])


def test_the_curve_adds_up_to_the_loss(run_path: Path) -> None:
    for entry in measure(lengths, open_subject(run_path), Settings(tokens=512))["results"][
        "lengths"
    ].values():
        bins = entry["curve"]
        total = sum(loss * tokens for loss, tokens in zip(bins["loss"], bins["tokens"], strict=True))
        assert total / sum(bins["tokens"]) == pytest.approx(entry["loss"])
        assert sum(bins["tokens"]) == entry["tokens"]


def test_bins_of_the_curve() -> None:
    nats = torch.arange(1.0, 13.0).repeat(2, 1)
    assert vars(curve(nats)) == {
        "start": [1, 2, 3, 5, 9],
        "end": [1, 2, 4, 8, 12],
        "loss": [1.0, 2.0, 3.5, 6.5, 10.5],
        "tokens": [2, 2, 4, 8, 8],
    }
    assert curve(torch.ones(1, 8)).end == [1, 2, 4, 8]
    assert curve(torch.ones(1, 1)).end == [1]
    unscored = torch.tensor([[math.nan, 2.0, math.nan, 4.0]])
    assert vars(curve(unscored)) == {"start": [2, 3], "end": [2, 4], "loss": [2.0, 4.0], "tokens": [1, 1]}


def test_longer_context_makes_no_difference_to_the_first_tokens(run_path: Path) -> None:
    measured = measure(lengths, open_subject(run_path), Settings(tokens=128, multiples=(1, 4)))["results"][
        "lengths"
    ]
    subject = open_subject(run_path)
    segment = cut(subject, 128, 1, bos=False, least=4).tokens
    first = subject.losses(torch.cat([torch.tensor([[subject.bos]]), segment], 1))[0, :2]
    assert measured["128"]["curve"]["loss"][:2] == pytest.approx(first.tolist())


def test_what_cannot_be_measured_is_skipped_with_a_reason(run_path: Path) -> None:
    skipped = measure(lengths, open_subject(run_path), Settings())["results"]["skipped"]
    assert [(entry["length"], entry["multiple"]) for entry in skipped] == [(256, 8), (512, 16)]
    assert {entry["reason"] for entry in skipped} == {"the model is limited to 128 positions"}
    skipped = measure(lengths, open_subject(run_path), Settings(tokens=64))["results"]["skipped"]
    assert skipped[0] == {"length": 128, "multiple": 4, "reason": "longer than --tokens 64"}
    with pytest.raises(ModelError, match="no length can be measured for plain"):
        measure(lengths, open_subject(run_path), Settings(multiples=(16,)))
    with pytest.raises(ModelError, match="a training length and tokens of at least 1"):
        Settings(train_length=0)


def test_joined_documents_are_stated(run_path: Path, tmp_path: Path) -> None:
    long = measure(lengths, open_subject(run_path), Settings(tokens=512))["protocol"]["segments"]
    assert long["documents_joined"] is False
    scraps = tmp_path / "scraps.jsonl"
    scraps.write_text('{"text": "the queen speaks of night and morning."}\n' * 60)
    subject = open_subject(run_path, text=str(scraps))
    joined = measure(lengths, subject, Settings(tokens=512))
    assert joined["protocol"]["segments"]["documents_joined"] is True
    segments = cut(subject, 128, 4, bos=False, least=4)
    separators = int((segments.tokens == subject.bos).sum())
    assert separators > 0
    assert segments.text_tokens == 512 - separators
    # Nothing was trained to predict the token between two documents.
    assert {entry["tokens"] for entry in joined["results"]["lengths"].values()} == {512 - separators}


def test_without_a_token_that_begins_documents_every_length_still_scores_the_same(run_path: Path) -> None:
    subject = open_subject(run_path)
    subject.bos = None
    measured = measure(lengths, subject, Settings(tokens=512))["results"]["lengths"]
    assert {entry["tokens"] for entry in measured.values()} == {512 - 512 // 32}
    assert measured["128"]["curve"]["start"][0] == 2


def test_rescaled_positions(make_run: RunMaker) -> None:
    path = make_run("rescaled", init_std=0.3)
    subject = open_subject(path)
    assert isinstance(subject, RunSubject)
    result = measure(lengths, subject, Settings(tokens=512, rope=("none", "ntk", "yarn")))
    plain = measure(lengths, subject, Settings(tokens=512, rope=("none",)))
    assert result["results"]["lengths"] == plain["results"]["lengths"]
    assert plain["results"]["rescaled"] == {}
    assert result["protocol"]["no_temperature"] == []
    assert plain["protocol"]["positions"] == {"none": "as trained"}
    stated = result["protocol"]["positions"]
    assert list(stated) == ["none", *result["results"]["rescaled"]]
    assert stated["ntk"].startswith("base of the frequencies times")
    assert stated["yarn"].endswith("s = length / 32, for lengths beyond 32")
    segments = cut(subject, 128, 4, bos=False, least=4).tokens
    trained = subject.network.rope
    for scaling, entries in result["results"]["rescaled"].items():
        assert list(entries) == ["64", "128"]
        for length, entry in entries.items():
            windows = segments.reshape(-1, int(length))
            subject.network.rope = trained.rescaled(scaling, int(length) / 32, 32)
            nats = subject.losses(torch.cat([torch.full_like(windows[:, :1], subject.bos), windows], 1))
            assert entry["loss"] == pytest.approx(nats.double().mean().item())
            assert entry["loss"] != plain["results"]["lengths"][length]["loss"]
    assert set(lengths.row(typed(lengths, result["results"]))) == {
        *("1x", "2x", "4x"),
        *("2x ntk", "4x ntk", "2x yarn", "4x yarn"),
    }


def test_the_factor_and_the_formula_know_the_same_training_length(make_run: RunMaker) -> None:
    subject = open_subject(make_run("stretched", init_std=0.3, rope_theta=100.0))
    assert isinstance(subject, RunSubject)
    asked = Settings(tokens=512, train_length=64, multiples=(1, 2), rope=("none", "yarn"))
    entry = measure(lengths, subject, asked)["results"]["rescaled"]["yarn"]["128"]
    windows = cut(subject, 128, 4, bos=False, least=4).tokens
    subject.network.rope = subject.network.rope.rescaled("yarn", 2.0, 64)
    nats = subject.losses(torch.cat([torch.full_like(windows[:, :1], subject.bos), windows], 1))
    assert entry["loss"] == pytest.approx(nats.double().mean().item(), rel=1e-9)


def test_what_has_no_rotary_positions_is_not_rescaled(make_run: RunMaker) -> None:
    subject = open_subject(make_run("nope", position="none"))
    with pytest.raises(ModelError, match="nope has no rotary positions to rescale"):
        measure(lengths, subject, Settings(tokens=512, rope=("none", "ntk")))
    with pytest.raises(ModelError, match="scripted cannot be rescaled"):
        measure(lengths, Scripted(), Settings(rope=("none", "yarn")))
    with pytest.raises(ModelError, match="unknown --rope 'yarm'; did you mean 'yarn'"):
        Settings(rope=("none", "yarm"))
    with pytest.raises(ModelError, match="needs none"):
        Settings(rope=("ntk",))
    with pytest.raises(ModelError, match="unknown --rope 'auto'"):
        Settings(rope=("auto", "none"))


def test_by_default_all_that_can_be_is_rescaled_and_the_rest_says_why(make_run: RunMaker) -> None:
    result = measure(lengths, open_subject(make_run("turning")), Settings(tokens=512))
    assert list(result["results"]["rescaled"]) == ["ntk", "yarn"]
    assert "not_rescaled" not in result["protocol"]
    nope = measure(lengths, open_subject(make_run("nope", position="none")), Settings(tokens=512))
    assert nope["results"]["rescaled"] == {}
    assert nope["protocol"]["positions"] == {"none": "as trained"}
    assert nope["protocol"]["not_rescaled"] == "nope has no rotary positions to rescale"
    other = measure(lengths, Scripted(), Settings(tokens=512))
    assert other["protocol"]["not_rescaled"] == "the positions of scripted cannot be rescaled"


def test_the_report_gets_rescaled_curves_beside_those_as_trained(make_run: RunMaker) -> None:
    results = measure(lengths, open_subject(make_run("drawn", init_std=0.3)), Settings(tokens=512))["results"]
    plots = {plot.title: plot for plot in lengths.plots(typed(lengths, results))}
    for what in ("Loss by length of the context", "Loss by position"):
        assert len(plots[what].lines) == 1
        for name in ("NTK", "YaRN"):
            rescaled, dashed = plots[f"{what}, {name}"].lines
            assert dashed == plots[what].lines[0]
            assert rescaled.x == dashed.x
            assert rescaled.y != dashed.y
            assert f"rescaled by {name}" in plots[f"{what}, {name}"].caption
    numbers = {number.title: number.value for number in lengths.numbers(typed(lengths, results))}
    assert set(numbers) == {
        *("at 4×, NTK", "at 4×, YaRN", "tail at 1×, as trained", "tail at 4×, as trained"),
        *("tail at 4×, NTK", "tail at 4×, YaRN"),
    }
    assert numbers["at 4×, NTK"] == results["rescaled"]["ntk"]["128"]["bits_per_byte"]
    assert numbers["tail at 4×, as trained"] == results["lengths"]["128"]["loss_tail"]


def test_without_rescaling_the_report_gets_what_was_measured(make_run: RunMaker) -> None:
    results = measure(lengths, open_subject(make_run("bare", position="none")), Settings(tokens=512))[
        "results"
    ]
    assert [plot.title for plot in lengths.plots(typed(lengths, results))] == [
        "Loss by length of the context",
        "Loss by position",
    ]
    assert {number.title for number in lengths.numbers(typed(lengths, results))} == {
        "tail at 1×, as trained",
        "tail at 4×, as trained",
    }


def test_yarns_temperature_reaches_mechanisms_with_a_scale() -> None:
    assert all(has_scale(get(name)) for name in ("softmax", "softpick", "swat"))
    assert not any(has_scale(get(name)) for name in ("lssa", "lssar", "gaussian"))


def test_bits_per_byte(run_path: Path) -> None:
    subject = open_subject(run_path)
    entry = measure(lengths, subject, Settings(tokens=128, multiples=(4,)))["results"]["lengths"]["128"]
    text = subject.decode(cut(subject, 128, 1, bos=False, least=4).tokens[0].tolist())
    bits = entry["loss"] * 128 / torch.tensor(2.0).log().item()
    assert entry["bits_per_byte"] == pytest.approx(bits / len(text.encode()), rel=1e-6)
