"""Accuracy on tasks of symbols: right for a model that solves them, at chance for one that names what it has seen."""

import dataclasses
from pathlib import Path

import pytest
import torch
from torch import Tensor

from data import DataConfig, TokenizerConfig
from data.corpora.synthetic import example
from eval.analyses import synthetic
from eval.analyses.synthetic import Settings, chance
from eval.subject import open_subject
from eval.subjects.base import Places
from models import ModelError
from tests.eval.conftest import Scripted, untrained_run
from tests.eval.measuring import measure, typed


class Solver(Scripted):
    """Answers induction questions; wrongly in every second document where it is told so."""

    def __init__(self, halves: bool = False) -> None:
        super().__init__()
        self.halves, self.vocab_size = halves, 800
        self.config = {"data": {"corpus": "synthetic", "task": "induction", "task_length": 64}}

    def encode(self, text: str) -> list[int]:
        return [ord(symbol) for symbol in text]

    def logits(self, tokens: Tensor, at: Places | None = None) -> Tensor:
        found = torch.zeros(*tokens.shape, self.vocab_size)
        for row, ids in enumerate(tokens.tolist()):
            for place, symbol in enumerate(ids):
                answer = ids[ids.index(symbol) + 1] if ids.index(symbol) < place else 0
                found[row, place, answer + (self.halves and row % 2)] = 20.0
        return found if at is None else found[at]


def test_a_solver_is_right_at_every_length() -> None:
    results = measure(synthetic, Solver(), Settings(documents=6))["results"]
    assert results["task"] == "induction"
    assert list(results["lengths"]) == ["64", "128", "256", "512", "1024"]
    for entry in results["lengths"].values():
        assert (entry["accuracy"], entry["exact"], entry["stderr"]) == (1.0, 1.0, 0.0)
        assert entry["answers"] == 6 * ((64 * entry["multiple"] - 1) // 4)
        assert entry["loss"] < 1e-3
    assert synthetic.row(typed(synthetic, results)) == {
        "task": "induction",
        **dict.fromkeys(["1x", "2x", "4x", "8x", "16x"], 1.0),
    }


def test_half_a_solver_is_half_right() -> None:
    entry = measure(synthetic, Solver(halves=True), Settings(documents=8, multiples=(2,)))["results"][
        "lengths"
    ]["128"]
    assert entry["accuracy"] == entry["exact"] == 0.5
    assert entry["stderr"] == pytest.approx(torch.tensor([0.0, 1.0] * 4).std().item() / 8**0.5)


def test_chance_is_naming_a_symbol_of_the_context() -> None:
    one = dataclasses.replace(example("maximum", 16, 0, 0), text="BxAyCxAz?x", answers=(9,))
    assert chance([one]) == 0.5
    many = [example("passkey", 64, 0, index) for index in range(300)]
    assert chance(many) == pytest.approx(0.22, abs=0.02)


@pytest.fixture(scope="module")
def copier(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an untrained model on copying."""
    data = DataConfig(
        corpus="synthetic", task="copy", max_documents=400, tokenizer=TokenizerConfig(kind="char")
    )
    shape = {"n_layer": 1, "n_head": 2, "d_model": 16, "max_length": 128}
    return untrained_run(tmp_path_factory.mktemp("runs") / "copier", data, 64, **shape)


def test_a_run_is_measured_where_it_can_be(copier: Path) -> None:
    subject = open_subject(copier)
    results = measure(synthetic, subject, Settings(documents=4))["results"]
    assert list(results["lengths"]) == ["64", "128"]
    assert [entry["multiple"] for entry in results["skipped"]] == [4, 8, 16]
    assert results["skipped"][0]["reason"] == "the model is limited to 128 positions"
    # The first answer follows the question mark, and each from the ones before it.
    text = example("copy", 64, -1, 0).text
    tokens = torch.tensor([[subject.bos, *subject.encode(text)]])
    nats = subject.losses(tokens)[0, 32:]
    one = measure(synthetic, subject, Settings(documents=1, multiples=(1,)))["results"]["lengths"]["64"]
    assert one["loss"] == pytest.approx(nats.mean().item(), rel=1e-5)
    assert one["stderr"] is None


def test_other_runs_have_no_results_but_a_reason(run_path: Path) -> None:
    results = measure(synthetic, open_subject(run_path), Settings())["results"]
    assert results["lengths"] == {}
    assert synthetic.row(typed(synthetic, results)) == {
        "skipped": "not trained on a task of symbols (data.corpus=synthetic)"
    }
    with pytest.raises(ModelError, match="a seed of at least 0"):
        Settings(seed=-1)
