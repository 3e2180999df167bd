"""The plan of a run, held against what a run really keeps."""

import re
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from models import GPT, ModelConfig
from training.config import TrainConfig
from training.losses.objective import Objective
from training.memory import saved_bytes
from training.optimizers import OPTIMIZERS, build_optimizer
from training.plan import __main__ as command
from training.plan import page
from training.plan.estimate import RESERVED, Cluster, estimate
from training.plan.page import choices, choices_table
from training.plan.sharding import SHARDINGS, shardings, share
from training.plan.sizes import CHECKPOINTING, Sizes, optimizer_bytes, sizes

PAPER = "configs/340m-softpick.yaml --gpus 8 --memory 80"
ROOT = Path(__file__).parents[2]
SHAPE = ModelConfig(vocab_size=300, n_layer=3, n_head=8, d_model=64, d_ff=96, max_length=256)
TRAIN = TrainConfig(batch_size=64, length=80, precision="fp32")
RUN = Sizes(
    parameters=10**9,
    n_layer=10,
    block=9 * 10**7,
    outside=10**8,
    state=8 * 10**9,
    casts=0,
    head=10**8,
    block_token=1000.0,
    sequence=10**9,
    again=10**8,
    logits=10**9,
    flops=6e9,
)


def really_kept(config: ModelConfig, train: TrainConfig, sequences: int) -> int:
    """What a real forward pass with its loss keeps for the backward pass."""
    network = GPT(replace(config, kernel="tiled"))
    network.checkpointing = train.activation_checkpointing
    tokens = torch.randint(config.vocab_size, (sequences, train.length))
    autocast = torch.autocast("cpu", torch.bfloat16, enabled=train.precision == "bf16")
    with saved_bytes([*network.parameters(), tokens]) as saved, autocast:
        loss = Objective(network, train)(tokens, tokens)
    del loss
    return saved.total


@pytest.mark.parametrize("mode", CHECKPOINTING)
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("attention", ["softpick", "softmax*2,swat*1"])
def test_what_a_run_keeps_is_foretold(mode, precision, attention):
    config = replace(SHAPE, attention=attention)
    train = replace(TRAIN, precision=precision, activation_checkpointing=mode)
    found = sizes(config, train, [mode])[mode]
    foretold = found.head + found.casts + 3 * found.sequence
    # Cosines and sines of positions are counted with every block; they are a thousandth of what larger ones keep.
    assert abs(foretold - really_kept(config, train, 3)) <= 0.02 * foretold


@pytest.mark.parametrize("name", OPTIMIZERS)
def test_what_an_optimizer_keeps_is_foretold_to_the_byte(name):
    train = replace(TRAIN, optimizer=name)
    network = GPT(SHAPE)
    foretold = optimizer_bytes(network, train)
    optimizer = build_optimizer(network, train)
    tokens = torch.randint(300, (2, 80))
    Objective(network, train)(tokens, tokens).total.backward()
    optimizer.step()
    kept = [value for entry in optimizer.state.values() for value in entry.values()]
    assert foretold == sum(x.nbytes for x in kept if torch.is_tensor(x)) > 0


def test_checkpointing_trades_memory_for_operations():
    found = [sizes(SHAPE, TRAIN)[mode] for mode in CHECKPOINTING]
    assert found[0].sequence > found[1].sequence > found[2].sequence
    assert found[0].flops < found[1].flops < found[2].flops < found[0].flops * 4 / 3
    # What is computed again is there again, for one block.
    assert found[0].again == 0 < found[1].again < found[2].again


def test_one_gpu_holds_all_and_sends_nothing():
    for sharding in SHARDINGS:
        alone = share(RUN, sharding, 1, 8, 2, 4)
        assert (alone.weights, alone.gradients, alone.state, alone.sent) == (4e9, 4e9, 8e9, 0)


def test_what_is_divided_falls_with_the_number_of_gpus():
    whole, zero2, fsdp = (share(RUN, sharding, 8, 8, 2, 4) for sharding in ("none", "zero2", "fsdp"))
    assert (whole.weights, whole.gradients, whole.state) == (4e9, 8e9, 8e9)
    assert zero2.weights == 2e9 + 4e9 / 8
    assert zero2.state == fsdp.state == 1e9
    assert fsdp.weights == 4e9 / 8 + 2 * (RUN.outside + 2 * RUN.block)
    # Once per step by DDP, in float32; three times per micro-batch by FSDP, in half precision.
    assert whole.sent == round(2 * 7 / 8 * 4e9)
    assert fsdp.sent == round(4 * 3 * 7 / 8 * 2e9)


def test_hsdp_divides_inside_a_node_and_sums_between_them():
    hybrid, one_node = share(RUN, "hsdp", 32, 8, 2, 4), share(RUN, "fsdp", 8, 8, 2, 4)
    assert replace(hybrid, sent=0, sent_inside=0) == replace(one_node, sent=0)
    assert hybrid.sent_inside == one_node.sent
    # Of each micro-batch an eighth of the gradients, in half precision, around the four nodes.
    assert hybrid.sent == round(4 * 2 * 3 / 4 * 2e9 / 8)
    cluster = Cluster(gpus=32, near=4e11, far=5e10)
    found = estimate(
        RUN, replace(TRAIN, batch_size=32 * 4, micro_batch_size=1, precision="bf16"), cluster, "hsdp"
    )
    assert found.sending == pytest.approx(hybrid.sent / 5e10 + hybrid.sent_inside / 4e11)


@pytest.mark.parametrize(("gpus", "offered"), [(1, False), (8, False), (12, False), (16, True), (64, True)])
def test_hsdp_is_for_full_nodes(gpus, offered):
    assert ("hsdp" in shardings(gpus, 8)) is offered


def test_the_largest_micro_batch_fits_and_the_next_does_not():
    cluster = Cluster(gpus=8, memory=40e9)
    train = replace(TRAIN, batch_size=8 * 64)
    found = estimate(RUN, train, cluster, "fsdp")
    assert found.largest == 16
    for micro, fits in ((16, True), (32, False)):
        chosen = estimate(RUN, replace(train, micro_batch_size=micro), cluster, "fsdp")
        assert chosen.fits is fits
        assert (chosen.memory <= (1 - RESERVED) * 40e9) is fits


def test_a_step_takes_its_operations_and_its_messages():
    cluster = Cluster(gpus=16, peak=1e15, utilisation=0.5, far=1e10)
    found = estimate(RUN, replace(TRAIN, batch_size=16, micro_batch_size=1), cluster, "none")
    assert found.computing == pytest.approx(80 * 6e9 / 0.5e15)
    assert found.sending == pytest.approx(2 * 15 / 16 * 4e9 / 1e10)
    assert found.seconds == (found.sending, found.computing + found.sending)


def test_every_combination_has_a_row():
    lines = choices_table(choices(SHAPE, TRAIN, Cluster(gpus=2), SHARDINGS)).splitlines()
    assert len(lines) == 2 + len(SHARDINGS) * len(CHECKPOINTING)
    assert len({line.count("|") for line in lines}) == 1


@pytest.mark.slow
def test_the_tables_of_the_page_are_those_that_the_commands_print(monkeypatch, capsys):
    """Line by line; of the presets the two smallest, since the larger take a minute and follow from the same rules."""
    known = {}

    def once(config, train, modes=CHECKPOINTING):
        key = repr((config, train, modes))
        known[key] = known.get(key) or sizes(config, train, modes)
        return known[key]

    monkeypatch.chdir(ROOT)
    monkeypatch.setattr(page, "sizes", once)
    monkeypatch.setattr(page, "PRESETS", page.PRESETS[:2])
    lines = Path("docs/scaling.md").read_text(encoding="utf-8").splitlines()
    for options in (PAPER, "--presets --memory 80", "--presets --memory 24"):
        monkeypatch.setattr(sys, "argv", ["training.plan", *options.split()])
        command.main()
        said, table = capsys.readouterr().out.split("\n\n", 1)
        stale = [line for line in table.strip().splitlines() if line not in lines]
        assert not stale, f"docs/scaling.md is stale: python -m training.plan {options}"
        for size, mode in re.findall(r"([\d.]+) \((\w+)\)", said):
            row = next(line for line in lines if line.startswith(f"| `{mode}` |"))
            assert f"| {size} |" in row, f"docs/scaling.md is stale: {size} KiB with {mode}"
