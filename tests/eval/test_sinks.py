"""Sinks, mass, entropy, sparsity and dead heads against dense weights and against cases with a known answer."""

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attention import attend, get, names, weights
from attention.mechanism import Pointwise
from eval import sinks
from eval.analysis import _plain
from eval.sinks import Settings
from eval.subject import open_subject
from eval.text import cut
from models import AttentionCall, ModelError
from tests.eval.conftest import RunMaker, Scripted

SMALL = Settings(lengths=(16,), sequences=6, thresholds=(0.1, 0.3), keys=4, dead=(1e-6, 1e-2))


def call(
    query: Tensor, key: Tensor, mechanism: str, window: int | None = None, scale: float | None = 1.0
) -> AttentionCall:
    value = torch.ones_like(key)
    arguments = {"causal": True, "window": window, "documents": None, "scale": scale, "params": None}
    chosen = get(mechanism)
    return AttentionCall(
        0, query, key, value, attend(query, key, value, chosen, **arguments), chosen, arguments
    )


def measured(subject: Scripted, settings: Settings = SMALL, length: int = 16) -> dict[str, Any]:
    return _plain(sinks.run(subject, settings)["results"])["lengths"][str(length)]


@pytest.mark.parametrize("mechanism", names())
def test_everything_equals_the_dense_computation(make_run: RunMaker, mechanism: str) -> None:
    options = {"swat": {"window": 10}} if mechanism == "swat" else {}
    subject = open_subject(make_run("dense", attention=mechanism, attention_options=options, init_std=0.5))
    settings = Settings(lengths=(24,), train_length=False, sequences=5, thresholds=(0.1, 0.3), keys=4)
    got = _plain(sinks.run(subject, settings)["results"])["lengths"]["24"]

    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        subject.observe(cut(subject, 24, 5).tokens)
    dense = torch.stack(
        [weights(c.query, c.key, c.mechanism, kernel="dense", **c.arguments) for c in calls]
    ).double()
    window = 10 if mechanism == "swat" else 24
    row, key = torch.arange(24)[:, None], torch.arange(24)[None]
    visible = (row >= key) & (row - key < window)
    mass = dense.sum(-1)
    renormalised = dense / (mass[..., None] + 1e-8)
    for kind, matrix in (("raw", dense), ("renormalised", renormalised)):
        audience = visible.sum(0)
        every = matrix.sum(-2) / audience
        alpha = every[..., :4]
        for threshold in ("0.1", "0.3"):
            hit = (alpha > float(threshold)).double()
            assert got["sink_rate"][kind][threshold] == pytest.approx(hit[..., 0].mean().item())
            assert got["sink_rate_by_key"][kind][threshold] == pytest.approx(hit.mean((0, 1, 2)).tolist())
            some = (
                (every[..., audience > audience.max() / 2] > float(threshold)).any(-1).double().mean().item()
            )
            assert got["sink_rate_any"][kind][threshold] == pytest.approx(some)
            torch.testing.assert_close(
                torch.tensor(got["heads"]["sink_rate"][kind][threshold]).double(),
                hit[..., 0].mean(1),
                atol=1e-6,
                rtol=0,
            )
        torch.testing.assert_close(
            torch.tensor(got["heads"]["importance"][kind]).double(),
            alpha[..., 0].mean(1),
            atol=1e-5,
            rtol=1e-4,
        )
    # As published: the mean over all rows from the key on, or over all rows, whatever a window hides.
    gu = torch.stack([renormalised[..., k:, k].mean(-1) for k in range(4)], -1)
    for threshold in ("0.1", "0.3"):
        published = got["published"]
        hit = (gu > float(threshold)).double().mean((0, 1, 2)).tolist()
        assert published["gu"]["by_key"][threshold] == pytest.approx(hit)
        assert published["gu"]["rate"][threshold] == pytest.approx(hit[0])
        hit = (dense[..., 0].mean(-1) > float(threshold)).double().mean().item()
        assert published["softpick"]["rate"][threshold] == pytest.approx(hit)
    full = mass >= 1e-8
    entropy = torch.special.entr(renormalised).sum(-1)
    assert got["mass"]["mean"] == pytest.approx(mass.mean().item(), rel=1e-4)
    assert got["mass"]["p95_at"][-1] == pytest.approx(mass[..., -1].quantile(0.95).item(), rel=1e-4, abs=1e-6)
    assert got["entropy"]["nats"] == pytest.approx(entropy[full].mean().item(), rel=1e-4, abs=1e-6)
    several = full & (visible.sum(-1) > 1)
    normalised = (entropy / visible.sum(-1).clamp(min=2).log())[several].mean().item()
    assert got["entropy"]["normalised"] == pytest.approx(normalised, rel=1e-4, abs=1e-6)
    assert got["entropy"]["skipped_rows"] == pytest.approx(1 - full.double().mean().item(), abs=1e-9)
    assert got["sparsity"]["zeros"] == pytest.approx(
        (dense[..., visible] == 0).double().mean().item(), abs=1e-9
    )
    assert got["sparsity"]["small"] == pytest.approx(
        (dense[..., visible] <= 1e-5).double().mean().item(), abs=1e-3
    )
    assert got["sparsity"]["empty_rows"] == pytest.approx((mass == 0).double().mean().item(), abs=1e-9)


def test_batches_of_any_size_agree(run_path: Path) -> None:
    one, many = (
        _plain(sinks.run(open_subject(run_path, batch_tokens=size), Settings(sequences=7))["results"])[
            "lengths"
        ]
        for size in (1, 100_000)
    )
    assert one.keys() == many.keys() == {"32", "64"} | ({"512"} & one.keys())
    for length in one:
        for group in ("mass", "entropy", "sparsity", "dead_heads"):
            for name, value in one[length][group].items():
                assert many[length][group][name] == pytest.approx(value, rel=1e-5, abs=1e-9), (
                    length,
                    group,
                    name,
                )
        assert many[length]["sink_rate"] == one[length]["sink_rate"]


@pytest.mark.parametrize("mechanism", ["softmax", "softpick", "lssar", "swat"])
def test_the_batch_changes_no_bit(mechanism: str) -> None:
    """With the same queries and keys; a network's own products may round otherwise in another batch."""
    generator = torch.Generator().manual_seed(0)
    query, key = 2 * torch.randn(2, 6, 48, 2, 8, generator=generator)
    settings = dataclasses.replace(SMALL, lengths=(48,), train_length=False)
    subjects = [Scripted([call(query, key, mechanism, scale=None)]) for _ in range(3)]
    for subject, batch_tokens in zip(subjects, (48, 4 * 48, 10_000), strict=True):
        subject.batch_tokens = batch_tokens
    one, four, all_at_once = (measured(subject, settings, 48) for subject in subjects)
    assert one == four == all_at_once


class Largest(TorchDispatchMode):
    """The size of the largest tensor that any operation returns while the mode is on."""

    def __init__(self) -> None:
        super().__init__()
        self.entries = 0

    def __torch_dispatch__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        answer = function(*args, **(kwargs or {}))
        for tensor in tree_leaves(answer):
            if isinstance(tensor, Tensor):
                # A view of fewer numbers than it shows takes no memory.
                self.entries = max(self.entries, min(tensor.numel(), tensor.untyped_storage().nbytes()))
        return answer


@pytest.mark.parametrize("mechanism", ["softmax", "softpick"])
def test_memory_grows_with_the_length_not_with_its_square(make_run: RunMaker, mechanism: str) -> None:
    path = make_run(f"long-{mechanism}", attention=mechanism, max_length=2048)
    sizes = []
    for length in (1024, 2048):
        settings = Settings(lengths=(length,), train_length=False, sequences=1)
        subject = open_subject(path)
        assert subject.token_documents
        with Largest() as largest:
            sinks.run(subject, settings)
        assert largest.entries < length**2 / 4
        sizes.append(largest.entries)
    assert sizes[1] <= 2 * sizes[0]


def test_uniform_attention_spreads_itself() -> None:
    zero = torch.zeros(6, 16, 2, 4)
    got = measured(Scripted([call(zero, zero, "softmax")]))
    harmonic = sum(1 / n for n in range(1, 17)) / 16
    assert got["heads"]["importance"]["raw"] == [[pytest.approx(harmonic)] * 2]
    assert got["sink_rate"]["raw"] == {"0.1": 1.0, "0.3": 0.0}
    assert got["entropy"]["nats"] == pytest.approx(sum(math.log(n) for n in range(1, 17)) / 16, rel=1e-5)
    assert got["entropy"]["normalised"] == pytest.approx(1)
    assert got["entropy"]["support"] == pytest.approx(8.5, rel=1e-5)
    assert got["mass"]["mean"] == pytest.approx(1)


def test_a_head_that_attends_to_the_first_token_only() -> None:
    query, key = torch.zeros(6, 16, 2, 4), torch.zeros(6, 16, 2, 4)
    query[:, :, 0, 0], key[:, 0, 0, 0] = 10.0, 10.0
    got = measured(Scripted([call(query, key, "softmax")]))
    assert got["heads"]["sink_rate"]["raw"]["0.3"] == [[1.0, 0.0]]
    assert got["heads"]["importance"]["raw"][0][0] == pytest.approx(1, abs=1e-6)
    assert got["sink_rate_by_key"]["raw"]["0.3"] == [0.5, 0.0, 0.0, 0.0]
    assert got["heads"]["entropy"][0][0] == pytest.approx(0, abs=1e-6)
    assert got["heads"]["max_score"] == [[pytest.approx(100), 0.0]]


def test_a_sink_may_be_any_key_that_enough_rows_see() -> None:
    """One head's sink is key 7, the others' keys 9 and 16, which fewer than half of the 16 rows see."""
    query, key = torch.zeros(2, 16, 3, 3), torch.zeros(2, 16, 3, 3)
    for head, sink in enumerate((7, 9, 16)):
        query[:, :, head, head], key[:, sink - 1, head, head] = 10.0, 10.0

    def found(audience: float, window: int | None = None) -> list[float]:
        settings = dataclasses.replace(SMALL, thresholds=(0.6,), audience=audience)
        rates = []
        for head in range(3):
            script = call(query[:, :, [head]], key[:, :, [head]], "softmax", window)
            rates.append(measured(Scripted([script]), settings)["sink_rate_any"]["raw"]["0.6"])
        return rates

    assert found(0.5) == [1.0, 0.0, 0.0]
    assert found(0.49) == [1.0, 1.0, 0.0]
    assert found(0.0) == [1.0, 1.0, 1.0]
    # Four rows at most see a key, and keys up to 14 are seen by more than two.
    assert found(0.5, window=4) == [1.0, 1.0, 0.0]
    with pytest.raises(ModelError, match="audience is a share"):
        Settings(audience=1.0)


def test_renormalising_shows_the_sink_that_small_rows_hide() -> None:
    query, key = torch.zeros(6, 16, 2, 1), torch.zeros(6, 16, 2, 1)
    query[..., 0] = 1.0
    key[..., 0] = -30.0
    key[:, 0] = -3.0
    got = measured(Scripted([call(query, key, "swat", window=16)]))
    # Half of SWAT's heads have a slope that favours old tokens; the other half decays and is the case in point.
    decaying = [raw == 0 for raw in got["heads"]["sink_rate"]["raw"]["0.3"][0]]
    assert sorted(decaying) == [False, True]
    assert got["heads"]["sink_rate"]["renormalised"]["0.3"][0][decaying.index(True)] == 1.0


def test_a_dead_softpick_head_has_empty_rows_and_no_entropy() -> None:
    query, key = torch.ones(6, 16, 2, 4), torch.ones(6, 16, 2, 4)
    key[:, :, 0] = -1.0
    got = measured(Scripted([call(query, key, "softpick")]))
    assert got["heads"]["empty_rows"] == [[1.0, 0.0]]
    assert got["heads"]["zeros"] == [[1.0, 0.0]]
    assert got["heads"]["entropy"][0][0] is None
    assert got["heads"]["dead_tokens"]["1e-06"] == [[1.0, 0.0]]
    assert got["dead_heads"] == {"1e-06": 0.5, "0.01": 0.5}
    assert got["entropy"]["skipped_rows"] == 0.5


def test_a_window_changes_how_many_rows_see_the_first_key() -> None:
    zero = torch.zeros(6, 16, 1, 4)
    got = measured(Scripted([call(zero, zero, "softmax", window=4)]))
    assert got["heads"]["importance"]["raw"] == [[pytest.approx((1 + 1 / 2 + 1 / 3 + 1 / 4) / 4)]]


def test_the_published_definitions_divide_by_rows_that_a_window_hides() -> None:
    zero = torch.zeros(6, 16, 1, 4)
    settings = dataclasses.replace(SMALL, thresholds=(0.13, 0.5))
    got = measured(Scripted([call(zero, zero, "softmax", window=4)]), settings)
    # The four rows that see the first key give it 25/48 on average, all sixteen 25/192.
    assert got["sink_rate"]["raw"] == {"0.13": 1.0, "0.5": 1.0}
    assert got["published"]["gu"]["rate"] == {"0.13": 1.0, "0.5": 0.0}
    assert got["published"]["softpick"]["rate"] == {"0.13": 1.0, "0.5": 0.0}


def test_negative_weights() -> None:
    """Renormalised by magnitude: a row that cancels is neither empty nor without entropy."""

    @dataclass(frozen=True)
    class Linear(Pointwise):
        name = "linear"
        formula = "s"
        paper = "none"

        def weights(self, score: Tensor, visible: Tensor) -> Tensor:
            return score

        def weight(self, score: Tensor) -> Tensor:
            return score

        def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
            return torch.ones_like(score)

    query, key = torch.ones(6, 16, 1, 1), torch.ones(6, 16, 1, 1)
    key[:, 0] = -15.0
    arguments = {"causal": True, "window": None, "documents": None, "scale": 1.0, "params": None}
    got = measured(Scripted([AttentionCall(0, query, key, key, key, Linear(), arguments)]))
    # Row i holds -15 and i - 1 ones; the last row cancels.
    shares = [15 / (15 + later) for later in range(16)]
    assert got["heads"]["importance"]["raw"] == [[-15.0]]
    assert got["heads"]["importance"]["renormalised"] == [[pytest.approx(sum(shares) / 16)]]
    assert got["sink_rate"] == {"raw": {"0.1": 0.0, "0.3": 0.0}, "renormalised": {"0.1": 1.0, "0.3": 1.0}}
    assert got["published"]["gu"]["rate"]["0.3"] == 1.0
    assert got["published"]["softpick"]["rate"]["0.3"] == 0.0
    assert got["mass"]["mean"] == pytest.approx(-7.5)
    assert got["sparsity"] == {"zeros": 0.0, "small": 0.0, "empty_rows": 0.0}
    assert got["entropy"]["skipped_rows"] == 0.0
    last = 0.5 * math.log(2) + 0.5 * math.log(30)
    assert got["heads"]["entropy"][0][0] > last / 16


def test_every_number_says_what_it_is(run_path: Path) -> None:
    settings = Settings(lengths=(16,), sequences=2, train_length=False)
    results = _plain(sinks.run(open_subject(run_path), settings)["results"])
    measured = results["lengths"]["16"]
    assert measured["protocol"]["bos"] is True
    named = set(measured) | set(measured["published"])
    undefined = named - set(results["definitions"])
    assert undefined == {"sequences", "tokens", "protocol", "published", "heads"}


def test_lengths_that_cannot_be_had_are_skipped_with_a_reason(run_path: Path) -> None:
    settings = Settings(lengths=(16, 200, 90_000), longest=50_000, train_length=False, sequences=2)
    results = sinks.run(open_subject(run_path), settings)["results"]
    assert list(results["lengths"]) == ["16"]
    reasons = {entry["length"]: entry["reason"] for entry in results["skipped"]}
    assert reasons[200] == "the model is limited to 128 positions"
    assert reasons[90_000] == "longer than --longest 50000"
    with pytest.raises(ModelError, match=r"sinks cannot be measured for plain: .*limited to 128"):
        sinks.run(open_subject(run_path), Settings(lengths=(200,), train_length=False))


def test_short_text_gives_overlapping_windows_and_says_so(run_path: Path) -> None:
    result = sinks.run(open_subject(run_path), Settings(lengths=(100,), train_length=False, sequences=128))
    assert result["results"]["lengths"]["100"]["sequences"] == 128
    assert result["protocol"]["windows"]["100"]["overlapping"] is True
    assert result["protocol"]["windows"]["100"]["bos"] is True
