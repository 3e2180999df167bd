"""A run learns where documents end, counts text only, and runs from before the choice stay as they were."""

import itertools
import json
import math
from pathlib import Path

import pytest
import torch
from omegaconf import OmegaConf

from models import ModelError, generate
from storage import load_run, log
from tests.training.conftest import MakeConfig
from tests.training.test_trainer import logged
from training import train

pytestmark = pytest.mark.slow

WORDS = ["".join(letters) for letters in itertools.product("abcd", "abcd", "abcd", "xyz")]


@pytest.fixture(scope="module")
def words(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Documents of four letters, of which the last says that it is."""
    path = tmp_path_factory.mktemp("words") / "words.jsonl"
    path.write_text("\n".join(json.dumps({"text": word}) for word in WORDS))
    return path


def options(words: Path) -> list[str]:
    return [
        f"data.path={words}",
        "data.tokenizer.kind=char",
        "train.validate_every=99",
        "train.validation_sequences=null",
    ]


def test_text_from_the_model_ends_where_documents_do(make: MakeConfig, words: Path) -> None:
    run = load_run(train(make(*options(words), "train.steps=60", "train.learning_rate=1e-2")))
    bos = run.tokenizer.bos
    assert run.config["train"]["document_end"] is True
    with torch.no_grad():
        tokens = torch.tensor([run.tokenizer.encode(word, bos=True) for word in WORDS])
        ending = run.model(tokens).softmax(-1)[..., bos]
    assert ending[:, 4].mean() > 0.9
    assert ending[:, :4].mean() < 0.05
    drawn = generate(run.model, torch.full((100, 1), bos), 20, stop=bos)[:, 1:]
    assert ((drawn == bos).int().argmax(1) == 4).float().mean() > 0.8

    # Held-out loss and bits per byte are those of the text; the ends are counted by themselves.
    last = log.read(run.path)[-1]
    held_out = [word for word in WORDS if word in _held_out(make, words)]
    rows = torch.tensor([run.tokenizer.encode(word, bos=True) for word in held_out])
    following = torch.cat([rows[:, 1:], torch.full_like(rows[:, :1], bos)], 1)
    with torch.no_grad():
        nats = run.model(rows, targets=following)
    assert last["validation_tokens"] == 4 * len(held_out)
    assert last["validation_loss"] == pytest.approx(float(nats[:, :4].mean()), rel=1e-5)
    assert last["bits_per_byte"] == pytest.approx(float(nats[:, :4].mean()) / math.log(2), rel=1e-5)
    assert last["end_loss"] == pytest.approx(float(nats[:, 4].mean()), rel=1e-5)


def _held_out(make: MakeConfig, words: Path) -> set[str]:
    from data import prepare

    return set(prepare(make(*options(words)).data).valid_documents())


def test_a_run_from_before_the_choice_goes_on_without(make: MakeConfig, words: Path) -> None:
    choice = [*options(words), "train.checkpoint_every=3", "train.document_end=false"]
    whole = train(make(*choice, "name=whole"))
    assert all("end_loss" not in record for record in logged(whole))
    old = train(make(*choice, "name=old"))
    for name in ("step-00000006",):
        folder = old / "checkpoints" / name
        for file in folder.iterdir():
            file.unlink()
        folder.rmdir()
    saved = OmegaConf.load(old / "config.yaml")
    del saved["train"]["document_end"]
    OmegaConf.save(saved, old / "config.yaml")
    with pytest.raises(ModelError, match=r"train\.document_end: False -> True"):
        train(make(*choice[:-1], "name=old", "train.document_end=true"), resume=True)
    train(make(*choice[:-1], "name=old"), resume=True)
    assert logged(old) == logged(whole)
