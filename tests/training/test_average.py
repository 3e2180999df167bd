"""The moving average of weights: its numbers, its place in a checkpoint, and the run that has it for its weights."""

import shutil
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import nn

from models import ModelError
from storage import checkpoint_path, load_run, log
from tests.training.conftest import MakeConfig
from training import train
from training.average import Average, main


def test_the_average_follows_its_formula_and_gives_the_weights_back() -> None:
    weight = nn.Parameter(torch.zeros(3))
    average = Average({"weight": weight}, 0.25)
    expected = torch.zeros(3)
    for done in range(1, 6):
        weight.data = torch.randn(3)
        average.update(done)
        decay = min(0.25, (1 + done) / (10 + done))
        expected = decay * expected + (1 - decay) * weight.detach()
    torch.testing.assert_close(average.weights["weight"], expected)
    before = weight.detach().clone()
    with average.in_place():
        assert torch.equal(weight, average.weights["weight"])
    assert torch.equal(weight, before)


@pytest.mark.slow
def test_a_run_keeps_its_average_to_the_bit_and_becomes_one_that_has_it(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    options = ["train.ema=0.9", "train.steps=4", "train.batch_size=2", "train.validate_every=2"]
    whole = train(make(*options, "name=whole"))
    parts = make(*options, "name=parts", "train.checkpoint_every=2")
    run = train(parts)
    shutil.rmtree(checkpoint_path(run, 4))
    train(parts, resume=True)
    ends = [load_file(checkpoint_path(path, 4) / "ema.safetensors") for path in (whole, run)]
    assert all(torch.equal(ends[0][name], ends[1][name]) for name in ends[0])
    last = [record for record in log.read(run) if "validation_loss" in record][-1]
    assert last["ema_validation_loss"] != pytest.approx(last["validation_loss"], rel=1e-6)

    out = run.with_name("averaged")
    monkeypatch.setattr(sys, "argv", ["average", str(run), str(out)])
    capsys.readouterr()
    main()
    assert capsys.readouterr().out == f"{out}\n"
    averaged = load_run(out)
    assert all(torch.equal(tensor, ends[1][name]) for name, tensor in averaged.model.state_dict().items())
    without = train(make("name=without", "train.steps=2", "train.warmup_steps=1"))
    monkeypatch.setattr(sys, "argv", ["average", str(without), str(Path(f"{out}-2"))])
    with pytest.raises(ModelError, match=r"keeps no average of weights; train with train\.ema=0\.999"):
        main()
