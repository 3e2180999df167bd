"""Models as transformers opens them: with the code that lies beside their weights, and no network."""

from collections.abc import Callable, Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest
import torch

from data import DataConfig, TokenizerConfig
from models import GPT
from models.plan import resolve
from tests.eval.conftest import prose, untrained_run
from tests.kernels import own_cache
from tests.models.conftest import tiny

pytest.importorskip("transformers")

from transformers import dynamic_module_utils

from models.huggingface import AttentionZooConfig, AttentionZooForCausalLM

LENGTH = 32
"""Tokens per training sequence of the runs."""


@pytest.fixture(scope="session", autouse=True)
def places(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Caches of these tests' own; nothing is asked of a network."""
    folder = tmp_path_factory.mktemp("cache")
    with own_cache(folder) as patch:
        patch.setattr(dynamic_module_utils, "HF_MODULES_CACHE", str(folder / "modules"))
        yield


def wrapped(network: GPT) -> AttentionZooForCausalLM:
    """A model of this project for transformers, with the same weights."""
    model = AttentionZooForCausalLM(AttentionZooConfig(plan=asdict(network.plan)))
    model.to(next(network.parameters()).dtype).network.load_state_dict(network.state_dict())
    return model.eval()


def opened(folder: Path, **options: Any) -> Any:
    """The model in a folder, by the code that lies there and not by that of this checkout."""
    named = "modeling_attention_zoo.AttentionZooForCausalLM"
    found = dynamic_module_utils.get_class_from_dynamic_module(named, str(folder))
    assert found.__module__.startswith("transformers_modules.")
    found.register_for_auto_class("AutoModelForCausalLM")
    found.config_class.register_for_auto_class()
    return found.from_pretrained(str(folder), dtype="auto", **options).eval()


Reopen = Callable[..., tuple[GPT, Any]]


@pytest.fixture
def reopen(tmp_path: Path) -> Reopen:
    """A function that builds a tiny model, saves it for transformers, and opens it by its own code; gives both."""

    def there_and_back(**changes: Any) -> tuple[GPT, Any]:
        network = tiny(**changes)
        wrapped(network).save_pretrained(tmp_path / "saved")
        return network, opened(tmp_path / "saved")

    return there_and_back


@pytest.fixture(scope="session")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of texts."""
    folder = tmp_path_factory.mktemp("corpus")
    for index in range(12):
        (folder / f"{index:02}.txt").write_text(prose(index, 260), encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def run(corpus: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of an untrained model with a window in one layer and learned parameters in the other."""
    tokenizer = TokenizerConfig(vocab_size=320)
    data = DataConfig(corpus="text", path=str(corpus), held_out=0.4, tokenizer=tokenizer)
    shape = {"n_layer": 2, "n_head": 2, "d_model": 32, "d_ff": 48, "max_length": 128, "init_std": 0.1}
    path = tmp_path_factory.mktemp("runs") / "plain"
    return untrained_run(path, data, LENGTH, attention="swat*1,ssmax*1", vocab_size=352, **shape)


@pytest.fixture(scope="session")
def folder(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The export of that run."""
    from models.export.folder import export

    return export(run, tmp_path_factory.mktemp("exports") / "plain")


def tokens_of(vocabulary: int, *shape: int) -> torch.Tensor:
    """Random tokens."""
    return torch.randint(vocabulary, shape, generator=torch.Generator().manual_seed(1))


def planned(**changes: Any) -> dict[str, Any]:
    """The plan of a tiny model."""
    return asdict(resolve(tiny(**changes).plan))
