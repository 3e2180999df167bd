"""The search of widths keeps its budget, repeats itself, never loses to the uniform one, and finds what was planted."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from eval.quantization.calibration import training_windows
from eval.quantization.rounding import round_to_nearest
from eval.quantization.search import Widths, _Judge, mutate, search
from eval.quantization.weights import Quantized, weight_matrices
from eval.subject import open_subject
from eval.subjects.base import Subject
from eval.windows import Windows
from models import ModelError
from tests.eval.conftest import RunMaker


@pytest.fixture(scope="module")
def subject(make_run: RunMaker) -> Subject:
    return open_subject(make_run("searched"))


@pytest.fixture(scope="module")
def windows(subject: Subject) -> Windows:
    return training_windows(subject, 24, 4)


@pytest.fixture(scope="module")
def database(subject: Subject) -> Mapping[int, Quantized]:
    matrices = weight_matrices(subject.blocks)
    return {
        bits: {name: round_to_nearest(matrix, bits, 16) for name, matrix in matrices.items()}
        for bits in (2, 3, 4)
    }


@given(st.integers(0, 1000), st.integers(1, 40))
def test_mutations_keep_the_budget_of_every_size(seed: int, times: int) -> None:
    groups = [["a", "b", "c"], ["d", "e"]]
    draw = random.Random(seed)
    widths = dict.fromkeys("abcdef", 3)
    for _ in range(times):
        before = dict(widths)
        widths = mutate(widths, groups, (2, 3, 4), draw)
        assert sum(widths[name] != before[name] for name in widths) <= 6
    for group in groups:
        assert sum(widths[name] for name in group) == 3 * len(group)
    assert set(widths.values()) <= {2, 3, 4}
    assert widths["f"] == 3


@pytest.mark.slow
def test_what_is_found_is_never_worse_than_the_uniform(
    subject: Subject, windows: Windows, database: Mapping[int, Quantized]
) -> None:
    before = {name: tensor.clone() for name, tensor in subject.network.state_dict().items()}
    found = search(subject, windows, database, 3, generations=5, offspring=8, seed=1)
    for name, tensor in subject.network.state_dict().items():
        assert torch.equal(tensor, before[name]), name
    assert len(found.divergence) == 6
    assert found.divergence == sorted(found.divergence, reverse=True)
    assert found.divergence[-1] < found.divergence[0]
    matrices = weight_matrices(subject.blocks)
    spent = sum(bits * matrices[name].numel() for name, bits in found.widths.items())
    assert spent == 3 * sum(matrix.numel() for matrix in matrices.values())
    again = search(subject, windows, database, 3, generations=5, offspring=8, seed=1)
    assert again == found
    other = search(subject, windows, database, 3, generations=5, offspring=8, seed=2)
    assert other.widths != found.widths


def test_offspring_are_ranked_in_stages(
    subject: Subject, database: Mapping[int, Quantized], monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[Widths, tuple[int, ...], float]] = []
    judged = _Judge.divergence

    def watched(judge: _Judge, widths: Widths, text: Sequence[int]) -> float:
        seen.append((dict(widths), tuple(text), judged(judge, widths, text)))
        return seen[-1][2]

    monkeypatch.setattr(_Judge, "divergence", watched)
    search(subject, training_windows(subject, 8, 32), database, 3, generations=2, offspring=16, seed=0)
    uniform, *rest = seen
    assert (set(uniform[0].values()), len(uniform[1])) == ({3}, 32)
    # Of each generation 16 candidates on a sixteenth of the text, 4 on a quarter, 1 on all of it.
    assert [len(text) for _, text, _ in rest] == 2 * (16 * [2] + 4 * [8] + [32])
    for generation in (rest[:21], rest[21:]):
        stages = generation[:16], generation[16:20], generation[20:]
        for stage in stages:
            assert len({text for _, text, _ in stage}) == 1
            assert len(set(stage[0][1])) == len(stage[0][1])
        for before, after in pairwise(stages):
            best = sorted(before, key=lambda entry: entry[2])[: len(after)]
            assert [widths for widths, _, _ in after] == [widths for widths, _, _ in best]
    # The text of early stages is drawn again in every generation.
    assert rest[0][1] != rest[21][1]


def test_whatever_is_tried_keeps_the_budget(
    subject: Subject, windows: Windows, database: Mapping[int, Quantized], monkeypatch: pytest.MonkeyPatch
) -> None:
    tried: list[Widths] = []
    monkeypatch.setattr(
        _Judge, "divergence", lambda judge, widths, text: tried.append(widths) or random.random()
    )
    search(subject, windows, database, 3, generations=12, offspring=8, seed=0)
    matrices = weight_matrices(subject.blocks)
    budget = 3 * sum(matrix.numel() for matrix in matrices.values())
    for widths in tried:
        assert sum(bits * matrices[name].numel() for name, bits in widths.items()) == budget
        assert set(widths.values()) <= {2, 3, 4}
    assert any(set(widths.values()) == {2, 3, 4} for widths in tried)


def test_without_generations_it_is_the_uniform(
    subject: Subject, windows: Windows, database: Mapping[int, Quantized]
) -> None:
    found = search(subject, windows, database, 3, generations=0, offspring=1, seed=0)
    assert set(found.widths.values()) == {3}
    with torch.inference_mode():
        full = subject.logits(windows.tokens).log_softmax(-1)
        matrices = weight_matrices(subject.blocks)
        originals = {name: matrix.clone() for name, matrix in matrices.items()}
        for name, matrix in matrices.items():
            matrix.copy_(database[3][name].weight())
        quantized = subject.logits(windows.tokens).log_softmax(-1)
        for name, matrix in matrices.items():
            matrix.copy_(originals[name])
    expected = (full.exp() * (full - quantized)).sum(-1).mean()
    assert found.divergence == [pytest.approx(expected.item(), rel=1e-4)]


def test_a_matrix_that_needs_more_bits_gets_them(
    subject: Subject, windows: Windows, database: Mapping[int, Quantized]
) -> None:
    # At 2 and 3 bits this one matrix is ruined, at 4 it is as it was; the others are the same at any width.
    exact = {name: replace(matrix) for name, matrix in database[4].items()}
    ruined = dict(exact)
    victim = "1.attention.output"
    ruined[victim] = replace(exact[victim], step=exact[victim].step * -3)
    found = search(subject, windows, {2: ruined, 3: ruined, 4: exact}, 3, generations=8, offspring=12, seed=0)
    assert found.widths[victim] == 4


@pytest.mark.parametrize(("levels", "bits"), [((2, 4), 3), ((3, 4), 3), ((3,), 3), ((2, 3, 4), 4)])
def test_a_budget_without_room_is_refused(
    levels: tuple[int, ...],
    bits: int,
    subject: Subject,
    windows: Windows,
    database: Mapping[int, Quantized],
) -> None:
    chosen = {level: database[level] for level in levels}
    with pytest.raises(ModelError, match="consecutive widths around it"):
        search(subject, windows, chosen, bits, generations=1, offspring=1, seed=0)
