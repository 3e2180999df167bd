"""A corpus with structure that a tiny model learns in seconds, and configs that train on it."""

import json
import os
import random
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import yaml
from accelerate.state import AcceleratorState, GradientState

from tests.kernels import own_cache
from training import Config, load

ROOT = Path(__file__).parents[2]

MakeConfig = Callable[..., Config]
"""`make(*overrides)`: the tiny config with overrides."""


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of sentences whose next word is nearly determined by the last one."""
    chance = random.Random(0)
    follow = {
        "the": ["king", "queen"],
        "king": ["sees"],
        "queen": ["hears"],
        "sees": ["a"],
        "hears": ["a"],
        "a": ["fox", "lark", "storm"],
        "fox": ["below"],
        "lark": ["above"],
        "storm": ["beyond"],
        "below": ["the"],
        "above": ["the"],
        "beyond": ["the"],
    }
    path = tmp_path_factory.mktemp("corpus") / "sentences.jsonl"
    with path.open("w") as file:
        for _ in range(120):
            words = ["the"]
            while len(words) < 120:
                words.append(chance.choice(follow[words[-1]]))
            file.write(json.dumps({"text": " ".join(words) + "\n"}) + "\n")
    return path


@pytest.fixture(scope="session")
def uneven(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents too long to share a row of 32 and of different lengths: rows with different numbers of targets."""
    chance = random.Random(1)
    path = tmp_path_factory.mktemp("uneven") / "documents.jsonl"
    letters = "abcdefghijklmnopqrstuvwxyz"
    with path.open("w") as file:
        for _ in range(80):
            file.write(
                json.dumps({"text": "".join(chance.choices(letters, k=chance.randint(17, 32)))}) + "\n"
            )
    return path


@pytest.fixture(scope="session")
def tiny_yaml(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A config file of a two-layer model that trains at thousands of tokens per second on one core."""
    values = {
        "seed": 7,
        "model": {"n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 64, "max_length": 256},
        "data": {"corpus": "jsonl", "path": str(corpus), "tokenizer": {"vocab_size": 300}},
        "train": {
            "steps": 6,
            "batch_size": 4,
            "length": 32,
            "learning_rate": 3e-3,
            "warmup_steps": 2,
            "precision": "fp32",
            "validate_every": 3,
            "validation_sequences": 6,
            "checkpoint_every": 100,
            "log_every": 1,
            "tracker": "none",
        },
    }
    path = tmp_path_factory.mktemp("configs") / "tiny.yaml"
    path.write_text(yaml.safe_dump(values))
    return path


@pytest.fixture(scope="session", autouse=True)
def cache(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Tokenizers and shards of these tests stay out of the user's cache."""
    folder = tmp_path_factory.mktemp("cache")
    with own_cache(folder):
        yield


@pytest.fixture(autouse=True)
def fresh_accelerate() -> Iterator[None]:
    """accelerate keeps its state for the life of a process; every test starts without."""
    before = os.environ.get("ACCELERATE_USE_CPU")
    yield
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
    if before is None:
        os.environ.pop("ACCELERATE_USE_CPU", None)


@pytest.fixture
def make(tiny_yaml: Path, tmp_path: Path) -> MakeConfig:
    """The tiny config with overrides, its runs in the test's own folder."""

    def config(*overrides: str) -> Config:
        return load(tiny_yaml, [f"out={tmp_path / 'runs'}", *overrides])

    return config


def run(*command: str, **environment: str) -> subprocess.CompletedProcess[str]:
    """A command in the repository, with what it said."""
    return subprocess.run(
        command,
        cwd=ROOT,
        env=clean_environment() | environment,
        capture_output=True,
        text=True,
        timeout=120,
    )


def clean_environment() -> dict[str, str]:
    """This process's environment without what a launcher might have left in it."""
    return {
        name: value
        for name, value in os.environ.items()
        if not name.startswith(("ACCELERATE", "MASTER_", "RANK", "WORLD_SIZE", "LOCAL_"))
    } | {"OMP_NUM_THREADS": "1"}


def train_command(*arguments: str) -> list[str]:
    """`python train.py ...` with this interpreter."""
    return [sys.executable, "train.py", *arguments]
