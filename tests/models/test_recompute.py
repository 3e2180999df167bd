"""Activation checkpointing: less is kept, and every gradient is the same to the last bit."""

import pytest
import torch

import attention
from attention import Phase
from attention.forms.chunked import Chunked
from common.ranges import violation
from models import GPT, ModelConfig, recompute
from training.losses.objective import Objective
from training.memory import saved_bytes

MODES = ("selective", "full")
SHAPE = {
    "vocab_size": 64,
    "n_layer": 2,
    "n_head": 4,
    "d_model": 32,
    "d_ff": 48,
    "max_length": 64,
    "init_std": 0.2,
}
TOKENS = torch.randint(64, (2, 40), generator=torch.Generator().manual_seed(1))
DOCUMENTS = torch.repeat_interleave(torch.tensor([0, 1]), torch.tensor([23, 17])).expand(2, -1)
PHASE = Phase(True, 0.5, torch.tensor(7), torch.tensor(0))


def model(mode: str, **changes: object) -> GPT:
    torch.manual_seed(0)
    network = GPT(ModelConfig(**SHAPE | changes))
    network.checkpointing = mode
    return network


def gradients(network: GPT, options: object = None, narrow: bool = False) -> list[torch.Tensor]:
    objective = Objective(network, options)
    with torch.autocast("cpu", torch.bfloat16, enabled=narrow):
        loss = objective(TOKENS, TOKENS, DOCUMENTS, PHASE)
    loss.total.backward()
    return [parameter.grad for parameter in network.parameters()]


def assert_same(found: list[torch.Tensor], wanted: list[torch.Tensor]) -> None:
    assert all(torch.equal(x, y) for x, y in zip(found, wanted, strict=True))


@pytest.mark.parametrize("mechanism", attention.names())
def test_gradients_are_the_same_to_the_last_bit(mechanism):
    position = "none" if attention.get(mechanism).form is Chunked else "rope"
    wanted = gradients(model("none", attention=mechanism, position=position))
    for mode in MODES:
        assert_same(gradients(model(mode, attention=mechanism, position=position)), wanted)


@pytest.mark.parametrize(
    "changes", [{"differential": True}, {"gate": "elementwise"}, {"mlp": "gelu"}, {"qk_norm": True}], ids=str
)
def test_gradients_are_the_same_with_every_block(changes):
    wanted = gradients(model("none", **changes))
    for mode in MODES:
        assert_same(gradients(model(mode, **changes)), wanted)


def test_a_penalty_on_attention_is_computed_again():
    from training.config import TrainConfig

    options = TrainConfig(entropy_penalty=1.0, entropy_margin=0.0)
    wanted = gradients(model("none"), options)
    assert not all(map(torch.equal, wanted, gradients(model("none"))))
    for mode in MODES:
        assert_same(gradients(model(mode), options), wanted)


def test_gradients_are_the_same_under_autocast():
    wanted = gradients(model("none"), narrow=True)
    for mode in MODES:
        assert_same(gradients(model(mode), narrow=True), wanted)


def test_less_is_kept():
    kept = {}
    for mode in ("none", *MODES):
        network = model(mode)
        parameters = list(network.parameters())
        with saved_bytes(parameters) as saved:
            hidden = network.hidden(TOKENS)
        kept[mode] = saved.total
        del hidden
    assert kept["full"] < kept["selective"] < kept["none"]


def test_without_gradients_it_changes_nothing():
    network = model("full")
    with torch.no_grad():
        plain = network(TOKENS)
        network.checkpointing = "none"
        assert torch.equal(plain, network(TOKENS))


def test_an_unknown_choice_is_refused():
    assert "known: full, none, selective" in str(violation(recompute.Options("everything")))


@pytest.mark.slow
def test_a_compiled_model_takes_it():
    found = {}
    for mode in ("none", *MODES):
        network = model(mode, attention="softpick", n_layer=1)
        compiled = torch.compile(Objective(network), backend="aot_eager", fullgraph=True)
        compiled(TOKENS, TOKENS, DOCUMENTS, PHASE).total.backward()
        found[mode] = [parameter.grad for parameter in network.parameters()]
    for mode in MODES:
        for ours, wanted in zip(found[mode], found["none"], strict=True):
            torch.testing.assert_close(ours, wanted, rtol=1e-5, atol=1e-6)
