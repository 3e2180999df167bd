"""The schedule as a function of the step, and what decays."""

import itertools
import math

import pytest
import torch

from attention import names
from models import GPT, ModelConfig
from training import wide_muon
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


@pytest.mark.parametrize("rate", [1.0, 0.25])
def test_muon_and_adamw_are_those_of_torch_at_rates_of_their_own(
    rate: float, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(wide_muon, "multiplies_bfloat16", lambda device: True)

    def built() -> torch.nn.Module:
        torch.manual_seed(0)
        return torch.nn.Sequential(torch.nn.Embedding(5, 4), torch.nn.Linear(4, 3))

    ours, theirs = built(), built()
    options = TrainConfig(optimizer="muon", muon_rate=rate, learning_rate=0.1, weight_decay=0.2)
    together = build_optimizer(ours, options)
    muon = torch.optim.Muon(
        [theirs[1].weight],
        lr=0.1 * rate,
        weight_decay=0.2,
        momentum=0.95,
        adjust_lr_fn="match_rms_adamw",
    )
    adamw = torch.optim.AdamW(
        [{"params": [theirs[0].weight]}, {"params": [theirs[1].bias], "weight_decay": 0.0}],
        lr=0.1,
        weight_decay=0.2,
        betas=(0.9, 0.95),
        fused=True,
    )
    for step in range(3):
        for group in together.param_groups:
            group["lr"] = 0.1 / (step + 1)
        muon.param_groups[0]["lr"] = 0.1 * rate / (step + 1)
        for group in adamw.param_groups:
            group["lr"] = 0.1 / (step + 1)
        for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
            one.grad = 0.1 * (step + 1) + one.detach() ** 2
            other.grad = one.grad.clone()
        for optimizer in (together, muon, adamw):
            optimizer.step()
        assert {group["lr"] for group in together.param_groups} == {0.1 / (step + 1)}
    for one, other in zip(ours.parameters(), theirs.parameters(), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-6, atol=1e-7)


def test_in_float32_muon_is_its_formula_and_near_that_of_bfloat16(monkeypatch: pytest.MonkeyPatch) -> None:
    chance = torch.Generator().manual_seed(0)
    start = [torch.randn(*shape, generator=chance) for shape in ((6, 4), (3, 8), (6, 4), (5, 5))]
    gradients = [[torch.randn_like(value) for value in start] for _ in range(2)]

    def stepped(native: bool) -> list[torch.Tensor]:
        monkeypatch.setattr(wide_muon, "multiplies_bfloat16", lambda device: native)
        parameters = [torch.nn.Parameter(value.clone()) for value in start]
        muon = wide_muon.WideMuon(parameters, lr=0.1, weight_decay=0.2, momentum=0.9)
        for of_step in gradients:
            for parameter, gradient in zip(parameters, of_step, strict=True):
                parameter.grad = gradient.clone()
            muon.step()
        return [parameter.detach() for parameter in parameters]

    for number, (found, rounded) in enumerate(zip(stepped(False), stepped(True), strict=True)):
        value, mean = start[number].double(), 0.0
        for of_step in gradients:
            gradient = of_step[number].double()
            mean = 0.9 * mean + 0.1 * gradient
            u, s, vh = torch.linalg.svd(0.1 * gradient + 0.9 * mean, full_matrices=False)
            s = s / s.norm()
            for _ in range(5):  # the iteration's polynomial acts on singular values
                s = 3.4445 * s - 4.7750 * s**3 + 2.0315 * s**5
            value = (1 - 0.1 * 0.2) * value - 0.1 * 0.2 * math.sqrt(max(value.shape)) * (u * s) @ vh
        torch.testing.assert_close(found.double(), value, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(found, rounded, rtol=0, atol=5e-3)


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
