"""Whether a run is compiled that leaves it open."""

from collections.abc import Callable
from dataclasses import replace
from functools import partial
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from models import ModelError, resolve
from storage import load_run
from tests.training.conftest import MakeConfig
from training import compiling, train
from training.config import Config

SHORT = ("train.steps=2", "train.checkpoint_every=1")
"""Of a tiny run."""

eager = partial(torch.compile, backend="aot_eager")
"""The compiler without its code: the same numbers, soon."""


@pytest.fixture
def long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every run is a long one."""
    monkeypatch.setattr(compiling, "_long", lambda config, accelerator: True)


def take(monkeypatch: pytest.MonkeyPatch, compiled: float) -> None:
    """Let a compiled step take so many seconds, and one as it is one second."""

    def interleaved(runs: Any, rounds: int, device: torch.device) -> dict[str, list[float]]:
        assert list(runs) == ["plain", "compiled"]
        for run in runs.values():
            run()
        return {"plain": [1.0] * rounds, "compiled": [compiled] * rounds}

    monkeypatch.setattr(compiling, "interleaved", interleaved)


def saved(config: Config, resume: bool = False) -> object:
    """What a run's own config says of compiling."""
    return load_run(train(config, resume=resume)).config["train"]["compile"]


def test_a_short_run_is_not_tried(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compiling, "Trial", None)
    assert saved(make(*SHORT)) is False


@pytest.mark.parametrize(
    ("steps", "rate", "long"), [(100, 1e12, False), (10**9, 1e12, True), (10**9, 1e18, False)]
)
def test_what_a_long_run_is(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, steps: int, rate: float, long: bool
) -> None:
    monkeypatch.setattr("training.utilisation.matmul_rate", lambda device, dtype: rate)
    config = make(f"train.steps={steps}", "train.precision=fp32", "model.vocab_size=64")
    config = replace(config, model=resolve(config.model))
    alone: Any = SimpleNamespace(device=torch.device("cpu"), num_processes=1)
    assert compiling._long(config, alone) is long


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize(("seconds", "pays"), [(0.9, True), (0.98, False), (1.5, False)])
def test_a_long_run_is_compiled_where_a_trial_shows_a_gain(
    make: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    seconds: float,
    pays: bool,
) -> None:
    monkeypatch.setattr(torch, "compile", eager)
    take(monkeypatch, seconds)
    assert saved(make(*SHORT)) is pays
    told = f"train.compile={str(pays).lower()}: forward and backward take {seconds:.3g} s compiled and 1 s as they are"
    assert told in capsys.readouterr().out


@pytest.mark.usefixtures("long")
def test_a_run_goes_on_as_it_began(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch, "compile", eager)
    take(monkeypatch, 0.5)
    constant = ("train.schedule=constant", "train.warmup_steps=0")
    assert saved(make(*SHORT, *constant)) is True
    monkeypatch.setattr(compiling, "Trial", None)
    assert saved(make("train.steps=3", *constant), resume=True) is True


@pytest.mark.usefixtures("long")
def test_a_trial_changes_no_number(make: MakeConfig, monkeypatch: pytest.MonkeyPatch) -> None:
    take(monkeypatch, 2.0)
    monkeypatch.setattr(torch, "compile", eager)
    tried = load_run(train(make(*SHORT, "name=tried"))).model.state_dict()
    told = load_run(train(make(*SHORT, "name=told", "train.compile=false"))).model.state_dict()
    assert tried.keys() == told.keys()
    assert all(torch.equal(tried[name], told[name]) for name in told)


class Twice(nn.Module):
    """A compiler's mistake."""

    def __init__(self, right: nn.Module) -> None:
        super().__init__()
        self.right = right

    def forward(self, *inputs: Any) -> Any:
        """Twice the loss."""
        found = self.right(*inputs)
        return type(found)(found.total * 2, found.nats)


def _raises(model: nn.Module) -> nn.Module:
    raise RuntimeError("no such instruction\nand much more")


@pytest.mark.usefixtures("long")
@pytest.mark.parametrize(
    ("compiler", "why"),
    [
        (Twice, "the compiled step has another loss or gradient"),
        (_raises, "it fails here: RuntimeError: no such instruction"),
    ],
)
def test_a_compiler_that_fails_is_left_out_and_said(
    make: MakeConfig,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    compiler: Callable[[nn.Module], nn.Module],
    why: str,
) -> None:
    monkeypatch.setattr(torch, "compile", compiler)
    take(monkeypatch, 0.5)
    assert saved(make(*SHORT)) is False
    assert f"train.compile=false: {why}\n" in capsys.readouterr().out


@pytest.mark.usefixtures("long")
def test_a_machine_without_a_compiler_trains_all_the_same(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(compiling, "check_compiler", _missing)
    assert saved(make(*SHORT)) is False
    assert "train.compile=false: torch.compile needs" in capsys.readouterr().out


def _missing(device: torch.device, option: str) -> None:
    raise ModelError(f"{option} needs a C++ compiler")


def test_a_run_of_before_there_was_a_choice_goes_on(make: MakeConfig) -> None:
    constant = ("train.schedule=constant", "train.warmup_steps=0")
    path = train(make(*SHORT, *constant)) / "config.yaml"
    text = path.read_text()
    path.write_text(text.replace("  compile: false\n", ""))
    assert path.read_text() != text
    assert train(make("train.steps=3", *constant), resume=True) == path.parent
