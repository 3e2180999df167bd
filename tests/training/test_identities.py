"""Wiring and absolute scales: what is logged equals what another count of the same thing gives."""

import itertools
from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from torch.nn import functional
from torch.utils.flop_counter import FlopCounterMode

from attention import INFERENCE, Phase
from data import PackedDataset, prepare
from models import GPT
from storage import load_run, log
from tests.training.conftest import MakeConfig
from training import telemetry, train, utilisation
from training.batches import count_targets, validation_batches
from training.telemetry import Throughput, matmul_rate

pytestmark = pytest.mark.slow

PEAK = 3e9


def added_product(_: torch.Size, a: torch.Size, b: torch.Size, **options: object) -> int:
    """FLOP of adding a b to something, by shapes."""
    return 2 * a[0] * a[1] * b[1]


def counted_flops(network: GPT, length: int) -> float:
    """Per token of a forward and a backward pass, counted by torch; attention over the keys of the triangle only.

    The dense kernel multiplies whole rows, of which causality leaves (length + 1) / 2 keys on average.
    """
    tokens = torch.arange(2 * length).view(2, length) % network.plan.vocab_size
    # torch's counter knows addmm, and not that it can be done in place.
    with FlopCounterMode(display=False, custom_mapping={torch.ops.aten.addmm_: added_product}) as counter:
        loss = functional.cross_entropy(network(tokens).flatten(0, 1), tokens.flatten())
        loss.backward()
    config = network.plan
    width = config.n_layer * config.n_head * (config.head_dim + config.value_dim)
    return counter.get_total_flops() / tokens.numel() - 6 * width * (length - (length + 1) / 2)


def tokens_since_the_last(throughput: Throughput) -> float:
    """In place of tokens per second: as if every interval of the log took one."""
    tokens, throughput.tokens = throughput.tokens, 0
    return float(tokens)


def test_utilisation_times_peak_is_speed_times_work(
    make: MakeConfig, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And the tokens that the speed counts are those of which the log says that they were trained on."""
    monkeypatch.setattr(utilisation, "matmul_rate", lambda device, dtype: PEAK)
    monkeypatch.setattr(Throughput, "rate", tokens_since_the_last)
    run = train(make("train.log_every=2", "train.validate_every=99"))
    network = GPT(replace(load_run(run).model.plan, kernel="dense"))
    records = [record for record in log.read(run) if "matmul_utilisation" in record]
    assert len(records) == 3
    for record in records:
        work = record["tokens_per_second"] * counted_flops(network, 32)
        assert record["matmul_utilisation"] * PEAK == pytest.approx(work, rel=1e-9)
    logged = [0, *(record["tokens"] for record in records)]
    assert [record["tokens_per_second"] for record in records] == [
        b - a for a, b in itertools.pairwise(logged)
    ]


def test_the_peak_is_a_product_over_its_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every reading of the clock is two seconds later, so the one product takes two."""
    clock = itertools.count(step=2)
    monkeypatch.setattr(telemetry, "time", SimpleNamespace(perf_counter=lambda: float(next(clock))))
    with FlopCounterMode(display=False) as counter:
        rate = matmul_rate(torch.device("cpu"), torch.float32, seconds=3)
    assert rate == counter.get_total_flops() / 2 > 0


def test_speed_is_tokens_over_the_time_that_was_not_paused(monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter([0.0, 3.0, 13.0, 15.0, 15.0, 20.0])
    monkeypatch.setattr(telemetry, "time", SimpleNamespace(perf_counter=lambda: next(clock)))
    throughput = Throughput()
    throughput.tokens += 1000
    with throughput.paused():
        pass
    assert throughput.rate() == pytest.approx(1000 / (15 - 10))
    throughput.tokens += 60
    monkeypatch.setattr(telemetry, "time", SimpleNamespace(perf_counter=lambda: 21.0))
    assert throughput.rate() == pytest.approx(60 / (21 - 15))


def test_validation_is_that_of_a_model_in_eval_mode(make: MakeConfig) -> None:
    """With a mechanism that adds noise in training only; the noise is back afterwards."""
    config = make("model.attention=gumbel_softmax", "train.validate_every=1", "train.steps=3")
    run = train(config)
    model = load_run(run).model.eval()
    noise = Phase(True, 0.5, torch.tensor(1))
    nats, targets = 0.0, 0
    prepared = prepare(config.data)
    packed = PackedDataset(prepared.valid, 32, ends=True)
    for batch in validation_batches(packed, sequences=6, micro_batch_size=4, rank=0, processes=1):
        losses = model(batch["tokens"], targets=batch["targets"], documents=batch["documents"])
        text = batch["targets"] != prepared.tokenizer.bos
        nats += float(losses[text].sum())
        targets += count_targets([batch]) - int((~text).sum())
    records = log.read(run)
    last = [record for record in records if "validation_loss" in record][-1]
    assert last["validation_loss"] == pytest.approx(nats / targets, rel=1e-6)
    assert last["validation_tokens"] == targets
    quiet, noisy = (
        float(
            model(batch["tokens"], targets=batch["targets"], documents=batch["documents"], phase=phase).sum()
        )
        for phase in (INFERENCE, noise)
    )
    assert noisy != pytest.approx(quiet, rel=1e-4)
    rare = train(
        make("model.attention=gumbel_softmax", "train.validate_every=99", "train.steps=3", "name=rare")
    )
    losses = [[record["loss"] for record in log.read(path) if "loss" in record] for path in (run, rare)]
    assert losses[0] == losses[1]
