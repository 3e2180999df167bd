"""Throughput and the signals that end a run, without a run."""

import itertools
import os
import signal
import time

import pytest
import torch
from accelerate import Accelerator

from models import ModelError
from training import stopping, telemetry
from training.launch import check_launch
from training.stopping import StopRequest
from training.telemetry import Throughput, matmul_rate


def test_paused_time_does_not_count() -> None:
    throughput = Throughput()
    throughput.tokens += 1000
    time.sleep(0.05)
    with throughput.paused():
        time.sleep(0.5)
    assert 4000 < throughput.rate() < 20_000
    assert throughput.rate() == 0


def test_the_matmul_rate_is_a_rate() -> None:
    assert 1e8 < matmul_rate(torch.device("cpu"), torch.float32, seconds=0.05) < 1e14


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_asks_and_a_later_one_ends(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = signal.getsignal(number)
    with StopRequest() as stop:
        assert not stop.requested
        os.kill(os.getpid(), number)
        os.kill(os.getpid(), number)
        assert stop.requested
        if number == signal.SIGINT:
            monkeypatch.setattr(stopping, "_PATIENCE", 0.0)
            with pytest.raises(KeyboardInterrupt):
                os.kill(os.getpid(), number)
    assert signal.getsignal(number) is before


@pytest.mark.parametrize("kind", ["FSDP", "DEEPSPEED"])
def test_sharding_that_accelerate_would_ignore_is_refused(kind: str, monkeypatch: pytest.MonkeyPatch) -> None:
    accelerator = Accelerator(cpu=True)
    check_launch(accelerator, 1)
    monkeypatch.setenv(f"ACCELERATE_USE_{kind}", "true")
    with pytest.raises(ModelError, match=f"{kind} was asked for and accelerate runs NO instead"):
        check_launch(accelerator, 1)


def test_another_number_of_processes_is_refused() -> None:
    with pytest.raises(ModelError, match=r"train\.processes=2, but 1 are running"):
        check_launch(Accelerator(cpu=True), 2)


def test_a_product_of_matrices_counts_a_multiplication_and_a_sum_each(monkeypatch):
    """By a clock that gives each product half a second."""
    ticks = itertools.count(0.0, 0.5)
    monkeypatch.setattr(telemetry.time, "perf_counter", lambda: next(ticks))
    monkeypatch.setattr(telemetry.torch, "mm", lambda a, b: None)
    rate = telemetry.matmul_rate(torch.device("cpu"), torch.float32, seconds=1.2)
    assert rate == 2 * 1024**3 / 0.5
