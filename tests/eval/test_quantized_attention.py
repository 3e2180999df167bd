"""Activations, caches and attention weights of few bits: by hand, against plain formulas, and gone afterwards."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.nn import functional

from attention import attend, weights
from eval.quantization import probabilities
from eval.quantization.activations import largest_inputs, quantized_activations, rounded_inputs
from eval.quantization.cache import QuantizedCache, rounded_per_token
from eval.quantization.calibration import training_windows
from eval.quantization.weights import linear_layers
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.windows import cut
from models import AttentionCall, KVCache, ModelError
from tests.eval.conftest import RunMaker

MECHANISMS = ("softmax", "softpick", "lssar", "gaussian", "swat")


@pytest.fixture(scope="module")
def subject_of(make_run: RunMaker) -> Callable[[str], Subject]:
    made: dict[str, Subject] = {}

    def opened(name: str) -> Subject:
        if name not in made:
            options = {"attention_options": {"swat": {"window": 8}}} if name == "swat" else {}
            made[name] = open_subject(make_run(f"few-{name}", attention=name, n_kv_head=1, **options))
        return made[name]

    return opened


def test_inputs_by_hand() -> None:
    values = torch.tensor([[3.0, -1.4, 0.4], [0.3, 0.0, -0.02]])
    # Two bits: -L, 0, L.
    assert rounded_inputs(values, 2, torch.tensor(3.0)).tolist() == [[3.0, 0.0, 0.0], [0.0, 0.0, 0.0]]
    per_token = rounded_inputs(values, 2, values.abs().amax(-1, keepdim=True))
    torch.testing.assert_close(per_token, torch.tensor([[3.0, 0.0, 0.0], [0.3, 0.0, 0.0]]))
    assert rounded_inputs(torch.zeros(2), 8, torch.tensor(0.0)).tolist() == [0.0, 0.0]
    # Beyond the calibrated range values are cut off.
    assert rounded_inputs(torch.tensor([9.0]), 8, torch.tensor(3.0)).tolist() == [pytest.approx(3.0)]


def test_every_linear_layer_sees_rounded_inputs(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("softmax")
    tokens = cut(subject, 32, 3).tokens
    full = subject.logits(tokens)
    largest = largest_inputs(subject, training_windows(subject, 32, 4))
    assert largest.keys() == linear_layers(subject.blocks).keys()
    moved = {}
    for bits in (3, 8):
        for kind, ranges in (("dynamic", None), ("static", largest)):
            with quantized_activations(subject, bits, ranges):
                moved[kind, bits] = float((subject.logits(tokens) - full).abs().mean())
    assert moved["dynamic", 8] < moved["static", 8] < moved["static", 3]
    assert moved["dynamic", 8] < 0.1 * moved["dynamic", 3]
    assert torch.equal(subject.logits(tokens), full)
    # One massive activation makes a static grid coarse for all, a dynamic one for its token only.
    outliers = {name: 100 * value for name, value in largest.items()}
    with quantized_activations(subject, 8, outliers):
        assert float((subject.logits(tokens) - full).abs().mean()) > 10 * moved["static", 8]


def test_dynamic_inputs_of_a_layer_are_those_of_the_formula(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("softmax")
    layer = subject.blocks[0].mlp.gate
    values = torch.randn(2, 5, 32, generator=torch.Generator().manual_seed(0))
    step = values.abs().amax(-1, keepdim=True) / 7
    expected = functional.linear((values / step).round() * step, layer.weight)
    with quantized_activations(subject, 4):
        torch.testing.assert_close(layer(values), expected)


def test_keys_and_values_have_a_grid_per_head_and_token() -> None:
    values = torch.randn(2, 5, 3, 16, generator=torch.Generator().manual_seed(0))
    got = rounded_per_token(values, 2)
    for token in got.flatten(0, 2):
        assert len(token.unique()) <= 4
    spoiled = values.clone()
    spoiled[0, 1, 2, 3] = 1000
    changed = (rounded_per_token(spoiled, 2) != got).any(-1)
    assert changed.nonzero().tolist() == [[0, 1, 2]]
    torch.testing.assert_close(rounded_per_token(values, 8), values, atol=0.02, rtol=0)


@pytest.mark.parametrize("name", MECHANISMS)
def test_attention_reads_the_rounded_cache(name: str, subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of(name)
    tokens = cut(subject, 24, 2).tokens
    full = subject.logits(tokens)
    calls: list[AttentionCall] = []
    quantized = QuantizedCache(4)

    def watch(call: AttentionCall) -> Tensor:
        calls.append(call)
        return quantized.attention(call)

    with subject.trace(attention=watch):
        got = subject.logits(tokens)
    assert not torch.allclose(got, full)
    assert torch.equal(subject.logits(tokens), full)
    # The second layer starts from what the first has read.
    first = subject.blocks[0]
    mixer = first.attention.mixer
    key, value = (rounded_per_token(each, 4) for each in (calls[0].key, calls[0].value))
    mixed = attend(calls[0].query, key, value, mixer.mechanism, **mixer.spec(None).options)
    stream = subject.network.embedding(tokens)
    stream = stream + first.attention.output(mixed.flatten(-2))
    stream = stream + first.mlp(first.mlp_norm(stream))
    second = subject.blocks[1]
    expected = second.attention.value(second.attention_norm(stream)).unflatten(-1, (1, -1))
    torch.testing.assert_close(calls[1].value, expected, atol=1e-5, rtol=1e-4)


def test_it_is_what_generation_reads_from_a_real_cache(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("softpick")
    tokens = cut(subject, 24, 2).tokens
    with torch.inference_mode(), subject.trace(attention=QuantizedCache(4).attention):
        whole = subject.network(tokens)
        cache = KVCache(subject.network.plan)
        steps = [subject.network(token, cache=cache) for token in tokens.split(1, dim=1)]
    torch.testing.assert_close(torch.cat(steps, 1), whole, atol=2e-4, rtol=1e-3)


@pytest.mark.parametrize("name", MECHANISMS)
@pytest.mark.parametrize("corrected", [False, True])
def test_quantized_weights_are_those_of_the_formula(
    name: str, corrected: bool, subject_of: Callable[[str], Subject]
) -> None:
    subject = subject_of(name)
    windows = training_windows(subject, 24, 3)
    found = probabilities.ranges(subject, windows)
    mass = probabilities.mass(subject, windows, found, [3])[3]
    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        subject.observe(windows.tokens)
    for call in calls:
        weight = weights(call.query, call.key, call.mechanism, **call.spec.options)
        low, high = min(0.0, float(weight.min())), float(weight.max())
        torch.testing.assert_close(torch.stack(found[call.layer]), torch.tensor([low, high]))
        step = (high - low) / 7
        rounded = (weight / step).round() * step
        lost = (weight - rounded).sum(-1).mean(0)
        torch.testing.assert_close(mass.lost[call.layer].float(), lost, atol=1e-4, rtol=1e-3)
        whole = weight.sum(-1).mean(0)
        torch.testing.assert_close(mass.whole[call.layer].float(), whole, atol=1e-4, rtol=1e-3)
        if corrected:
            window = call.mechanism.window or 24
            distance = torch.arange(24)[:, None] - torch.arange(24)
            sight = (distance >= 0) & (distance < window)
            rounded = rounded + lost[..., None] / sight.sum(-1, keepdim=True) * sight
            # The correction restores the mean sum of every row.
            torch.testing.assert_close(rounded.sum(-1).mean(0), whole, atol=1e-4, rtol=1e-3)
        expected = torch.einsum("bhts,bsd->bthd", rounded, call.value[:, :, 0])
        got = probabilities.attention(call, 3, found, mass if corrected else None)
        torch.testing.assert_close(got, expected, atol=1e-4, rtol=1e-3)


def test_a_row_that_loses_nothing_gets_nothing(subject_of: Callable[[str], Subject]) -> None:
    """The first row of softmax has all weight on one key: 1 is a point of the grid, so its output stays its value."""
    subject = subject_of("softmax")
    windows = training_windows(subject, 24, 3)
    found = probabilities.ranges(subject, windows)
    mass = probabilities.mass(subject, windows, found, [2])[2]
    assert mass.lost_by_row[0] == 0 < 0.1 < mass.lost_by_row[-1]
    assert mass.lost_by_row.mean() == pytest.approx(mass.mean_lost)
    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        subject.observe(windows.tokens)
    for call in calls:
        got = probabilities.attention(call, 2, found, mass)
        first = call.value[:, 0].repeat_interleave(call.query.shape[2] // call.value.shape[2], 1)
        torch.testing.assert_close(got[:, 0], first)


def test_rows_longer_than_those_of_calibration_are_refused(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("softmax")
    windows = training_windows(subject, 16, 2)
    found = probabilities.ranges(subject, windows)
    mass = probabilities.mass(subject, windows, found, [4])[4]
    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        subject.observe(cut(subject, 8, 1).tokens)
        subject.observe(cut(subject, 17, 1).tokens)
    assert probabilities.attention(calls[0], 4, found, mass).shape == calls[0].output.shape
    with pytest.raises(ModelError, match="rows of up to 16 keys, not of 17"):
        probabilities.attention(calls[-1], 4, found, mass)


def test_many_bits_change_little_and_few_lose_mass(subject_of: Callable[[str], Subject]) -> None:
    subject = subject_of("softmax")
    windows = training_windows(subject, 32, 3)
    found = probabilities.ranges(subject, windows)
    assert all(high == 1 and low == 0 for low, high in found.values())
    masses = probabilities.mass(subject, windows, found, (8, 2))
    assert abs(masses[8].mean_lost) < 0.01
    # Rows of up to 32 small weights: most lie below half of a step of 1/3.
    assert masses[2].mean_lost > 0.3
