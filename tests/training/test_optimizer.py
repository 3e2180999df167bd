"""The schedule as a function of the step, and what decays."""

import itertools
import math

import pytest
import torch

from attention import names
from models import GPT, ModelConfig
from training.config import TrainConfig
from training.optimizers import build_optimizer
from training.optimizers.groups import parameter_groups
from training.schedules import learning_rate


def test_warm_up_reaches_the_peak_and_the_cosine_its_end() -> None:
    train = TrainConfig(steps=100, warmup_steps=10, learning_rate=2.0, min_learning_rate=0.1)
    rates = [learning_rate(step, train) for step in range(100)]
    assert rates[:10] == pytest.approx([0.2 * (step + 1) for step in range(10)])
    assert max(rates) == rates[9] == 2.0
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[54] == pytest.approx(0.2 + 0.9 * 2.0 * (1 + math.cos(math.pi * 45 / 90)) / 2)
    assert rates[99] == pytest.approx(0.2)


def test_a_constant_schedule_stays_and_no_warm_up_starts_at_the_peak() -> None:
    train = TrainConfig(steps=9, warmup_steps=0, schedule="constant", learning_rate=0.5)
    assert {learning_rate(step, train) for step in range(9)} == {0.5}
    assert learning_rate(0, TrainConfig(steps=1, warmup_steps=1, learning_rate=0.5)) == 0.5


def test_wsd_stays_and_comes_down_in_a_line() -> None:
    train = TrainConfig(
        steps=20, warmup_steps=0, schedule="wsd", learning_rate=1.0, min_learning_rate=0.5, decay_share=0.25
    )
    rates = [learning_rate(step, train) for step in range(20)]
    assert rates == pytest.approx([1.0] * 15 + [0.9, 0.8, 0.7, 0.6, 0.5])


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("mechanism", names())
def test_matrices_decay_and_nothing_else(mechanism: str, tied: bool) -> None:
    model = GPT(ModelConfig(preset="nano", n_layer=2, attention=mechanism, qk_norm=True, tie_embeddings=tied))
    groups = parameter_groups(model, 0.1)
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    grouped = [(name_of[id(p)], group["weight_decay"]) for group in groups for p in group["params"]]
    assert sorted(name for name, _ in grouped) == sorted(name_of.values())
    for name, decay in grouped:
        assert (decay == 0) == ("norm" in name or "learned" in name), name


def test_the_vectors_of_lambda_do_not_decay_and_a_gate_does() -> None:
    model = GPT(ModelConfig(preset="nano", n_layer=1, differential=True, gate="headwise"))
    decaying, others = ([id(p) for p in group["params"]] for group in parameter_groups(model, 0.1))
    post_ops = dict(model.layers[0].attention.post_ops.named_parameters())
    assert id(post_ops.pop("gate.projection.weight")) in decaying
    assert set(post_ops) == {"difference.query", "difference.key", "difference.norm.weight"}
    assert {id(parameter) for parameter in post_ops.values()} <= set(others)


def test_the_optimiser_is_the_configured_one() -> None:
    optimizer = build_optimizer(torch.nn.Linear(2, 2), TrainConfig(beta1=0.8, beta2=0.7, adam_epsilon=1e-15))
    for group in optimizer.param_groups:
        assert (group["betas"], group["eps"], group["fused"]) == ((0.8, 0.7), 1e-15, True)


def test_muon_takes_the_hidden_matrices_and_adamw_the_rest() -> None:
    model = GPT(ModelConfig(preset="nano", n_layer=1, attention="gaussian", tie_embeddings=False))
    name_of = {id(parameter): name for name, parameter in model.named_parameters()}
    optimizer = build_optimizer(model, TrainConfig(optimizer="muon", weight_decay=0.3))
    groups = [sorted(name_of[id(p)] for p in group["params"]) for group in optimizer.param_groups]
    assert groups[0] == sorted(
        name
        for name, value in model.named_parameters()
        if value.dim() == 2 and "layers" in name and "learned" not in name
    )
    assert groups[1] == ["embedding.weight", "head.weight"]
    assert sorted(itertools.chain(*groups)) == sorted(name_of.values())
    assert [group["weight_decay"] for group in optimizer.param_groups] == [0.3, 0.3, 0.0]


def test_muon_goes_on_from_its_saved_state() -> None:
    def stepped(model: torch.nn.Module, optimizer: torch.optim.Optimizer, count: int) -> None:
        for number in range(count):
            for parameter in model.parameters():
                parameter.grad = torch.full_like(parameter, 0.1 * (number + 1)) + parameter.detach()
            optimizer.step()

    def build() -> tuple[torch.nn.Module, torch.optim.Optimizer]:
        torch.manual_seed(0)
        model = torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3))
        return model, build_optimizer(model, TrainConfig(optimizer="muon", learning_rate=0.1))

    whole, through = build()
    stepped(whole, through, 2)
    first, before = build()
    stepped(first, before, 2)
    second, after = build()
    second.load_state_dict(first.state_dict())
    after.load_state_dict(before.state_dict())
    after.param_groups[0]["lr"] = 0.01
    through.param_groups[0]["lr"] = 0.01
    stepped(whole, through, 1)
    stepped(second, after, 1)
    for one, other in zip(whole.parameters(), second.parameters(), strict=True):
        assert torch.equal(one, other)
    kinds = {frozenset(state) for state in after.state.values()}
    assert kinds == {frozenset({"momentum_buffer"}), frozenset({"step", "exp_avg", "exp_avg_sq"})}
