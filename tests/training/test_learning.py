"""Every mechanism learns: below the entropy of single words, on a text where only attention can get there."""

import json
import random
from pathlib import Path

import pytest
import torch

from attention import names
from common.targets import IGNORED
from data import PackedDataset, prepare
from storage import log
from tests.training.conftest import MakeConfig
from training import Config, train

pytestmark = pytest.mark.slow

LETTERS = "abcdefghijklmnopqrstuvwxyz"


@pytest.fixture(scope="session")
def topics(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents that draw from four letters each, of their own.

    The last letter is repeated in one of 26 cases: it says nothing of the next one. Those before say nearly all.
    """
    chance = random.Random(0)
    path = tmp_path_factory.mktemp("topics") / "topics.jsonl"
    with path.open("w") as file:
        for _ in range(400):
            own = chance.sample(LETTERS, 4)
            words = [own[0]]
            while len(words) < 60:
                words += chance.choices(own, [1 if word == words[-1] else 25 / 3 for word in own])
            file.write(json.dumps({"text": " ".join(words)}) + "\n")
    return path


@pytest.fixture
def config(make: MakeConfig, topics: Path) -> Config:
    """One layer, for 40 steps."""
    return make(
        f"data.path={topics}",
        "data.tokenizer.vocab_size=312",
        "model.n_layer=1",
        "model.init_std=0.1",
        "train.steps=40",
        "train.batch_size=16",
        "train.length=64",
        "train.learning_rate=3e-2",
        "train.validate_every=40",
        "train.validation_sequences=null",
    )


def trained_loss(config: Config) -> tuple[float, float]:
    """Held-out loss after training, and the entropy of the held-out words by their own frequencies, nats per token."""
    loss = log.read(train(config))[-1]["validation_loss"]
    held_out = PackedDataset(prepare(config.data).valid, config.train.length)
    targets = torch.cat([held_out[index]["targets"] for index in range(len(held_out))])
    frequency = torch.unique(targets[targets != IGNORED], return_counts=True)[1].double()
    return loss, float(torch.special.entr(frequency / frequency.sum()).sum())


@pytest.mark.parametrize("mechanism", names())
def test_a_model_beats_the_frequencies_of_words(config: Config, mechanism: str) -> None:
    config.model.attention = mechanism
    loss, entropy = trained_loss(config)
    assert loss < entropy - 0.2


def test_a_model_that_sees_only_the_last_word_does_not(config: Config) -> None:
    config.model.window = "1"
    loss, entropy = trained_loss(config)
    assert loss > entropy - 0.02
