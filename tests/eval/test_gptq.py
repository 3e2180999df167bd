"""GPTQ against round-to-nearest, a slow reference, all possible codes, and a plain walk through the network."""

from itertools import product

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from eval.quantization.calibration import training_windows
from eval.quantization.gptq import quantize_blocks, quantize_matrix
from eval.quantization.rounding import encode, grid, round_to_nearest
from eval.quantization.stream import BlockStream
from eval.quantization.weights import linear_layers, preserved, weight_matrices
from eval.subject import open_subject
from eval.subjects.base import Subject
from models import ModelError
from storage import QuantizedMatrix
from tests.eval.conftest import RunMaker


def problem(seed: int, outputs: int, inputs: int, tokens: int = 64) -> tuple[Tensor, Tensor]:
    """A matrix and the Hessian of correlated inputs, float64."""
    generator = torch.Generator().manual_seed(seed)
    weight = torch.randn(outputs, inputs, dtype=torch.float64, generator=generator)
    mixing = torch.randn(inputs, inputs, dtype=torch.float64, generator=generator)
    values = torch.randn(tokens, inputs, dtype=torch.float64, generator=generator) @ mixing + 1
    return weight, values.T @ values / tokens


def error(weight: Tensor, quantized: Tensor, hessian: Tensor) -> float:
    """tr(D H D^T)."""
    change = (quantized - weight).double()
    return float((change @ hessian * change).sum())


def brain_surgeon(weight: Tensor, hessian: Tensor, bits: int, group: int, damping: float) -> Tensor:
    """Codes by the update of optimal brain quantization, row by row, an inverse made anew for every input."""
    damped = hessian + damping * hessian.diagonal().mean() * torch.eye(len(hessian), dtype=torch.float64)
    codes = torch.empty_like(weight)
    for row, original in enumerate(weight):
        w = original.clone()
        for j in range(len(w)):
            if j % group == 0:
                step, zero = grid(w[j : j + group].min(), w[j : j + group].max(), bits)
            codes[row, j] = encode(w[j], step, zero, bits)
            value = (codes[row, j] - zero) * step
            inverse = torch.linalg.inv(damped[j:, j:])
            w[j:] -= (w[j] - value) / inverse[0, 0] * inverse[0]
    return codes


@given(st.integers(0, 99), st.integers(1, 8), st.integers(1, 9), st.sampled_from([2, 3, 5, 9]))
@settings(max_examples=25)
def test_without_correlation_it_is_round_to_nearest(seed: int, bits: int, inputs: int, group: int) -> None:
    weight = problem(seed, 4, inputs)[0].float()
    expected = round_to_nearest(weight, bits, group)
    for hessian in (torch.zeros(inputs, inputs), 3 * torch.eye(inputs)):
        got = quantize_matrix(weight, hessian.double(), bits, group, 0.01)
        assert torch.equal(got.codes, expected.codes)
        assert torch.equal(got.weight(), expected.weight())


@pytest.mark.parametrize("group", [4, 7, 12])
@pytest.mark.parametrize("bits", [2, 3, 4])
def test_codes_are_those_of_optimal_brain_quantization(bits: int, group: int) -> None:
    for seed in range(3):
        weight, hessian = problem(seed, 5, 12)
        expected = brain_surgeon(weight, hessian, bits, group, 0.01)
        got = quantize_matrix(weight, hessian, bits, group, 0.01)
        assert torch.equal(got.codes.double(), expected)


@pytest.mark.parametrize("bits", [2, 3, 4, 8])
def test_outputs_are_nearer_than_with_round_to_nearest(bits: int) -> None:
    for seed in range(5):
        weight, hessian = problem(seed, 32, 64, tokens=256)
        got = quantize_matrix(weight, hessian, bits, 16, 0.01).weight()
        nearest = round_to_nearest(weight, bits, 16).weight()
        assert error(weight, got, hessian) < 0.8 * error(weight, nearest, hessian)
        # The weights themselves are not nearer.
        assert (got - weight).norm() > (nearest - weight).norm()


def test_between_the_best_of_all_codes_and_round_to_nearest() -> None:
    """In one group all three share a grid; over many matrices GPTQ makes up for more than half of what can be."""
    every = torch.tensor(list(product(range(8), repeat=4)), dtype=torch.float64)
    total = torch.zeros(3, dtype=torch.float64)
    for seed in range(40):
        weight, hessian = problem(seed, 1, 4)
        nearest = round_to_nearest(weight, 3, 4)
        change = (every - nearest.zero.double()) * nearest.step.double() - weight
        best = float((change @ hessian * change).sum(1).min())
        got = error(weight, quantize_matrix(weight, hessian, 3, 4, 0.0).weight(), hessian)
        assert got > best * 0.9999
        total += torch.tensor([best, got, error(weight, nearest.weight(), hessian)])
    assert total[1] - total[0] < 0.5 * (total[2] - total[0])


def test_what_cannot_be_inverted_is_refused() -> None:
    weight = torch.randn(3, 4)
    hessian = torch.ones(4, 4, dtype=torch.float64)
    with pytest.raises(ModelError, match="larger --damping"):
        quantize_matrix(weight, hessian, 4, 4, 0.0)
    with pytest.raises(ModelError, match="not finite"):
        quantize_matrix(weight, hessian * torch.nan, 4, 4, 0.01)
    quantize_matrix(weight, hessian, 4, 4, 0.01)


def plain(subject: Subject, tokens: Tensor, bits: int, group: int) -> dict[str, QuantizedMatrix]:
    """Block by block, with the whole network run anew for every block."""
    found: dict[str, QuantizedMatrix] = {}
    with preserved(weight_matrices(subject.blocks)):
        for index, block in enumerate(subject.blocks):
            seen: dict[str, list[Tensor]] = {name: [] for name in linear_layers(block)}
            handles = [
                layer.register_forward_pre_hook(
                    lambda layer, inputs, values=seen[name]: values.append(inputs[0].flatten(0, 1))
                )
                for name, layer in linear_layers(block).items()
            ]
            subject.observe(tokens)
            for handle in handles:
                handle.remove()
            for name, matrix in weight_matrices(block).items():
                values = torch.cat(seen[name]).double()
                hessian = values.T @ values / len(values)
                found[f"{index}.{name}"] = quantize_matrix(matrix, hessian, bits, group, 0.01)
            for name, matrix in weight_matrices(block).items():
                matrix.copy_(found[f"{index}.{name}"].weight())
    return found


def check_blocks(subject: Subject) -> None:
    windows = training_windows(subject, 32, 6)
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    stream = BlockStream(subject, windows)
    got = quantize_blocks(subject, stream, 3, 16, 0.01)
    for name, tensor in subject.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    expected = plain(subject, windows.tokens, 3, 16)
    assert got.keys() == expected.keys() == weight_matrices(subject.blocks).keys()
    for name, matrix in expected.items():
        # Sums in another order may move a weight that lies between two points.
        same = (got[name].codes == matrix.codes).double().mean()
        assert same > 0.99, name
        torch.testing.assert_close(got[name].step, matrix.step, rtol=0.05, atol=1e-3)
    # The stream still stands in front of the first block, and every width begins there.
    again = quantize_blocks(subject, stream, 3, 16, 0.01)
    assert all(torch.equal(again[name].codes, matrix.codes) for name, matrix in got.items())


@pytest.mark.slow
@pytest.mark.parametrize("attention", ["softmax", "lssar*1,swat*1"])
def test_blocks_see_what_quantized_blocks_give(make_run: RunMaker, attention: str) -> None:
    subject = open_subject(make_run("gptq", attention=attention), batch_tokens=96)
    check_blocks(subject)
    independent, other = (
        quantize_blocks(subject, BlockStream(subject, training_windows(subject, 32, count)), 8, 16, 0.01)
        for count in (6, 2)
    )
    assert not torch.equal(independent["1.mlp.down"].codes, other["1.mlp.down"].codes)


def test_a_layer_that_nothing_reaches_is_refused(make_run: RunMaker) -> None:
    subject = open_subject(make_run("unreached"))
    subject.blocks[1].extra = torch.nn.Linear(4, 4, bias=False).requires_grad_(False)
    with pytest.raises(ModelError, match=r"no token of the calibration text reaches 1\.extra"):
        quantize_blocks(subject, BlockStream(subject, training_windows(subject, 32, 2)), 4, 16, 0.01)


def test_calibration_text_is_never_held_out(make_run: RunMaker) -> None:
    subject = open_subject(make_run("calibrated"))
    source, documents = subject.training_documents(100)
    assert source.endswith("training documents")
    assert documents
    assert not set(documents) & set(subject.held_out())
    assert len(subject.training_documents(3)[1]) <= 3
    windows = training_windows(subject, 16, 5)
    encoded = [subject.encode(document) for document in documents]
    for window in windows.tokens[:, 1:].tolist():
        assert any(window == ids[start : start + 15] for ids in encoded for start in range(len(ids) - 14))
    assert windows.protocol["source"] == source
