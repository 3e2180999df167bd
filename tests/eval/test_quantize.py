"""Rounding by hand, its effect on loss, and that nothing of it remains."""

from pathlib import Path

import pytest
import torch
from torch import nn

from eval import quantize
from eval.quantize import Settings, round_to_nearest, rounded, weight_matrices
from eval.subject import open_subject
from eval.text import cut
from models import ModelError


def test_a_group_by_hand() -> None:
    # Range [-1, 2] in 3 steps of 1, zero point 1: the levels are -1, 0, 1, 2.
    weight = torch.tensor([[-1.0, -0.4, 0.6, 2.0]])
    assert round_to_nearest(weight, 2, 4).tolist() == [[-1.0, 0.0, 1.0, 2.0]]
    # One bit: -1 and 2 are 3 apart, the zero point rounds to 0, so the levels are 0 and 3.
    assert round_to_nearest(weight, 1, 4).tolist() == [[0.0, 0.0, 0.0, 3.0]]


def test_groups_are_independent_and_the_last_may_be_short() -> None:
    weight = torch.tensor([[0.0, 3.0, 0.0, 300.0, 0.0, 7.0, 4.4]])
    assert round_to_nearest(weight, 2, 2).tolist() == [[0.0, 3.0, 0.0, 300.0, 0.0, 7.0, pytest.approx(4.4)]]
    together = round_to_nearest(weight, 2, 7)
    assert together.tolist() == [[0.0, 0.0, 0.0, 300.0, 0.0, 0.0, 0.0]]


def test_zeros_stay_and_many_bits_change_nothing() -> None:
    assert round_to_nearest(torch.zeros(2, 5), 4, 4).tolist() == torch.zeros(2, 5).tolist()
    weight = torch.randn(8, 64, generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(round_to_nearest(weight, 16, 64), weight, atol=1e-4, rtol=0)
    with pytest.raises(ModelError, match="not finite"):
        round_to_nearest(torch.tensor([[float("nan")]]), 4, 64)


def test_error_never_exceeds_half_a_step_of_each_group() -> None:
    weight = torch.randn(16, 128, generator=torch.Generator().manual_seed(0))
    for bits in (2, 3, 4, 8):
        groups = weight.unflatten(1, (-1, 32))
        span = groups.amax(-1).clamp(min=0) - groups.amin(-1).clamp(max=0)
        # Rounding the zero point may move a value by another half step at the ends of the range.
        limit = span / (2**bits - 1) * 1.0001
        error = (round_to_nearest(weight, bits, 32) - weight).unflatten(1, (-1, 32)).abs().amax(-1)
        assert (error <= limit).all()


def test_fewer_bits_are_worse_and_the_network_is_restored(run_path: Path) -> None:
    subject = open_subject(run_path)
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    results = quantize.run(subject, Settings(sequences=8, group=16))["results"]
    for name, tensor in subject.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    errors = [results["bits"][bits]["weight_error"] for bits in ("8", "4", "3", "2")]
    assert errors == sorted(errors)
    assert errors[0] < 0.01
    assert errors[-1] > 0.2
    moves = [abs(results["bits"][bits]["delta_loss"]) for bits in ("8", "4", "2")]
    assert moves[0] < moves[1] < moves[2]
    for score in results["bits"].values():
        assert score["delta_loss"] == pytest.approx(score["loss"] - results["full_precision"]["loss"])
        assert score["perplexity_ratio"] == pytest.approx(
            score["perplexity"] / results["full_precision"]["perplexity"]
        )
    tokens = cut(subject, 32, 8).tokens
    assert results["full_precision"]["loss"] == pytest.approx(subject.losses(tokens).double().mean().item())


def test_the_network_is_restored_after_a_failure(run_path: Path) -> None:
    subject = open_subject(run_path)
    matrices = weight_matrices(subject.blocks)
    before = {name: matrix.clone() for name, matrix in matrices.items()}

    def fail() -> None:
        with rounded(matrices, 2, 16):
            assert not torch.equal(matrices["0.attention.query"], before["0.attention.query"])
            raise RuntimeError

    with pytest.raises(RuntimeError):
        fail()
    assert all(torch.equal(matrices[name], before[name]) for name in before)


def test_every_linear_layer_of_the_blocks_and_nothing_else(run_path: Path) -> None:
    subject = open_subject(run_path)
    rounded_parameters = sum(matrix.numel() for matrix in weight_matrices(subject.blocks).values())
    linear = [module for module in subject.blocks.modules() if isinstance(module, nn.Linear)]
    assert rounded_parameters == sum(module.weight.numel() for module in linear)
    results = quantize.run(subject, Settings(sequences=2, bits=(8,)))["results"]
    assert results["rounded"]["matrices"] == len(linear) == 14
    total = sum(parameter.numel() for parameter in subject.network.parameters())
    assert results["rounded"]["share"] == pytest.approx(rounded_parameters / total)
