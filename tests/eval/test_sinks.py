"""Sinks, mass, entropy, sparsity and dead heads against dense weights and against cases with a known answer."""

import dataclasses
import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

from attention import CallSpec, attend, get, names, weights
from attention.core.mechanism import Mechanism
from attention.forms.pointwise import Pointwise
from eval.analyses import sinks
from eval.analyses.sinks import Settings
from eval.row_sums import quantile
from eval.subject import open_subject
from eval.windows import cut
from models import AttentionCall, ModelError
from tests.eval.conftest import RunMaker, Scripted, prose
from tests.eval.measuring import measure

SMALL = Settings(lengths=(16,), sequences=6, thresholds=(0.1, 0.3), keys=4, dead=(1e-6, 1e-2))


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


def call(
    query: Tensor,
    key: Tensor,
    mechanism: str | Mechanism,
    window: int | None = None,
    scale: float | None = 1.0,
) -> AttentionCall:
    value = torch.ones_like(key)
    spec = CallSpec(window=window, scale=scale)
    chosen = get(mechanism)
    return AttentionCall(
        0, query, key, value, attend(query, key, value, chosen, **spec.options), chosen, spec
    )


def measured(subject: Scripted, settings: Settings = SMALL, length: int = 16) -> dict[str, Any]:
    return measure(sinks, subject, settings)["results"]["lengths"][str(length)]


def dense(calls: list[AttentionCall], window: int, settings: Settings) -> dict[str, Any]:
    """The results by the definitions, in float64 from whole matrices of weights, [L, N, H, T, T]."""
    weight = torch.stack(
        [
            weights(c.query.double(), c.key.double(), c.mechanism, kernel="dense", **c.spec.options)
            for c in calls
        ]
    )
    output = torch.stack([c.output.double().transpose(1, 2) for c in calls])
    norms = torch.stack([c.value.double().norm(dim=-1).transpose(1, 2) for c in calls])[..., None, :]
    given = weight.abs() * norms.repeat_interleave(weight.shape[2] // norms.shape[2], 2)
    whole = given.sum(-1, keepdim=True)
    length = weight.shape[-1]
    row, key = torch.arange(length)[:, None], torch.arange(length)[None]
    visible = (row >= key) & (row - key < window)
    magnitude = weight.abs().sum(-1)
    full = magnitude >= 1e-8
    several = full & (visible.sum(-1) > 1)
    share = weight.abs() / magnitude.where(full, torch.inf)[..., None]
    entropy = torch.special.entr(share).sum(-1)
    importance = {
        "raw": weight.sum(-2) / visible.sum(0),
        "renormalised": (weight.abs() / (magnitude + 1e-8)[..., None]).sum(-2) / visible.sum(0),
    }
    contributed = (given / whole.where(whole > 0, 1)).sum(-2) / visible.sum(0)
    countable = visible.sum(0) > settings.audience * visible.sum(0).max()
    as_published = (weight.abs() / (magnitude + 1e-8)[..., None]).sum(-2) / torch.arange(length, 0, -1)

    def rates(values: Tensor, over: tuple[int, ...]) -> dict[str, Any]:
        return {str(e): (values > e).double().mean(over) for e in settings.thresholds}

    def mean(values: Tensor, of: Tensor, over: tuple[int, ...] = (0, 1, 2, 3)) -> Tensor:
        return (values * of).sum(over) / of.expand_as(values).sum(over)

    every = torch.ones_like(full)
    pairs = {"zeros": (weight.float() == 0) & visible, "small": (weight.abs() <= 1e-5) & visible}
    numbers = {
        "mass": (weight.sum(-1), every),
        "entropy": (entropy, full),
        "entropy_normalised": (entropy / visible.sum(-1).clamp(min=2).log(), several),
        "support": (entropy.exp(), full),
        "empty_rows": ((magnitude == 0).double(), every),
    }
    pooled = {name: mean(*number) for name, number in numbers.items()}
    heads = {name: mean(*number, over=(1, 3)) for name, number in numbers.items()}
    area = visible.sum() * weight.shape[1]
    dead = {str(e): (output.abs().amax(-1) < e).double().mean((1, 3)) for e in settings.dead}
    positions = [p for p in (1, 2, 4, 8, 16, 32) if p < length] + [length]
    mass_at = weight.sum(-1).flatten(0, 2)[:, [position - 1 for position in positions]].numpy()
    return {
        "sink_rate": {kind: rates(alpha[..., 0], (0, 1, 2)) for kind, alpha in importance.items()},
        "sink_rate_by_key": {kind: rates(alpha[..., :4], (0, 1, 2)) for kind, alpha in importance.items()},
        "sink_rate_any": {
            kind: rates(alpha[..., countable].amax(-1), (0, 1, 2)) for kind, alpha in importance.items()
        },
        "published": {
            "gu": {
                "rate": rates(as_published[..., 0], (0, 1, 2)),
                "by_key": rates(as_published[..., :4], (0, 1, 2)),
            },
            "softpick": {"rate": rates(weight[..., 0].mean(-1), (0, 1, 2))},
        },
        "mass": {
            "mean": pooled["mass"],
            "positions": positions,
            "mean_at": mass_at.mean(0),
            "p5_at": np.percentile(mass_at, 5, axis=0),
            "p95_at": np.percentile(mass_at, 95, axis=0),
        },
        "entropy": {
            "nats": pooled["entropy"],
            "normalised": pooled["entropy_normalised"],
            "support": pooled["support"],
            "skipped_rows": 1 - full.double().mean(),
        },
        "sparsity": {
            **{name: hit[..., visible].double().mean() for name, hit in pairs.items()},
            "empty_rows": pooled["empty_rows"],
        },
        "dead_heads": {name: (tokens >= 0.95).double().mean() for name, tokens in dead.items()},
        "heads": {
            "sink_rate": {kind: rates(alpha[..., 0], (1,)) for kind, alpha in importance.items()},
            "importance": {kind: alpha[..., 0].mean(1) for kind, alpha in importance.items()},
            **heads,
            **{name: hit.sum((1, 3, 4)) / area for name, hit in pairs.items()},
            "dead_tokens": dead,
        },
        "contribution": {
            "sink_rate": rates(contributed[..., 0], (0, 1, 2)),
            "sink_rate_by_key": rates(contributed[..., :4], (0, 1, 2)),
            "heads": rates(contributed[..., 0], (1,)),
            "importance": contributed[..., 0].mean(1),
        },
    }


def numbers(value: Any) -> Any:
    """A nested list of a result file, nan where there is no number."""
    if isinstance(value, list):
        return [numbers(entry) for entry in value]
    return math.nan if value is None else value


def assert_equal(got: Any, expected: Any, where: str = "") -> None:
    """All numbers but the scores, to what float32 rounds."""
    if isinstance(expected, dict):
        assert got.keys() - {"sequences", "tokens", "protocol", "max_score"} == expected.keys(), where
        for name, value in expected.items():
            assert_equal(got[name], value, f"{where}.{name}")
    else:
        torch.testing.assert_close(
            torch.as_tensor(numbers(got), dtype=torch.float64),
            torch.as_tensor(expected, dtype=torch.float64),
            rtol=1e-4,
            atol=1e-6,
            equal_nan=True,
            msg=lambda text: f"{where}: {text}",
        )


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", names())
def test_everything_equals_the_dense_computation(make_run: RunMaker, mechanism: str) -> None:
    options = {"swat": {"window": 10}} if mechanism == "swat" else {}
    subject = open_subject(make_run("dense", attention=mechanism, attention_options=options, init_std=0.5))
    settings = Settings(
        lengths=(24,), train_length=False, sequences=5, thresholds=(0.1, 0.3), keys=4, dead=(1e-6, 0.3)
    )
    got = measure(sinks, subject, settings)["results"]["lengths"]["24"]
    calls: list[AttentionCall] = []
    with subject.trace(attention=calls.append):
        subject.observe(cut(subject, 24, 5).tokens)
    assert_equal(got, dense(calls, 10 if mechanism == "swat" else 24, settings))


@pytest.mark.parametrize("window", [None, 5])
@pytest.mark.parametrize("mechanism", ["softmax", "sigmoid", "softpick", Linear()], ids=str)
def test_rows_of_any_mass_equal_the_dense_computation(mechanism: str | Mechanism, window: int | None) -> None:
    """Heads of large and small scores, some rows empty, negative or of hardly any mass; some tokens dead."""
    generator = torch.Generator().manual_seed(0)
    query, key = torch.randn(2, 6, 16, 4, 4, generator=generator)
    query *= torch.tensor([3.0, 1.0, 0.1, 1e-8])[:, None]
    key[..., 0, :] -= 2.0
    if mechanism == "sigmoid":
        query[..., 0], key[..., 0] = 1.0, torch.tensor([0.0, -9.0, -18.0, -21.0])
    layers = [
        dataclasses.replace(call(*pair, mechanism, window), layer=layer)
        for layer, pair in enumerate([(query, key), (key, query)])
    ]
    got = measure(sinks, Scripted(layers), SMALL)["results"]["lengths"]["16"]
    assert_equal(got, dense(layers, window or 16, SMALL))
    if mechanism != "softmax":
        assert 0 < got["entropy"]["skipped_rows"] < 1


def test_a_head_is_dead_from_95_percent_of_dead_tokens_on() -> None:
    """Of 6 windows of 20 tokens, 113, 114 and 115 are dead; 114 is 95 %."""
    query = torch.zeros(6, 20, 3, 4)
    output = torch.zeros(6 * 20, 3, 4)
    for head, dead in enumerate((113, 114, 115)):
        output[dead:, head, 1] = -0.5
    output[0] = 1e-3
    script = dataclasses.replace(call(query, query, "softmax"), output=output.unflatten(0, (6, 20)))
    settings = dataclasses.replace(SMALL, lengths=(20,), train_length=False, dead=(1e-6, 1e-2, 0.5, 0.6))
    got = measured(Scripted([script]), settings, 20)
    assert got["heads"]["dead_tokens"]["0.01"] == [[113 / 120, 114 / 120, 115 / 120]]
    assert got["heads"]["dead_tokens"]["1e-06"] == [[112 / 120, 113 / 120, 114 / 120]]
    # Exactly 0.5 is not below 0.5.
    assert got["dead_heads"] == {"1e-06": 1 / 3, "0.01": 2 / 3, "0.5": 2 / 3, "0.6": 1.0}


@pytest.mark.parametrize("equal", [True, False], ids=["documents-of-one-length", "documents-of-any-length"])
def test_batches_of_any_size_agree(run_path: Path, tmp_path: Path, equal: bool) -> None:
    """To what the network's own products round; what is made of them depends on no batch, as the next test shows."""
    text = tmp_path / "text.jsonl"
    sizes = [260] * 8 if equal else [5, 900, 20, 90, 400, 1, 60, 300]
    text.write_text("\n".join(json.dumps({"text": prose(size, size)}) for size in sizes))
    one, many = (
        measure(sinks, open_subject(run_path, batch_tokens=size, text=str(text)), Settings(sequences=7))
        for size in (1, 100_000)
    )
    assert one["results"]["lengths"].keys() == {"32", "64"}
    torch.testing.assert_close(many["results"]["lengths"], one["results"]["lengths"], rtol=1e-5, atol=1e-9)


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


@pytest.mark.slow
@pytest.mark.parametrize("mechanism", ["softmax", "softpick"])
def test_memory_grows_with_the_length_not_with_its_square(make_run: RunMaker, mechanism: str) -> None:
    path = make_run(f"long-{mechanism}", attention=mechanism, max_length=2048)
    sizes = []
    for length in (1024, 2048):
        settings = Settings(lengths=(length,), train_length=False, sequences=1)
        subject = open_subject(path)
        assert subject.token_documents
        with Largest() as largest:
            measure(sinks, subject, settings)
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
    query, key = torch.ones(6, 16, 1, 1), torch.ones(6, 16, 1, 1)
    key[:, 0] = -15.0
    got = measured(Scripted([AttentionCall(0, query, key, key, key, Linear(), CallSpec(scale=1.0))]))
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


def test_percentiles_of_more_numbers_than_torch_takes_at_once() -> None:
    mass = torch.linspace(0, 1, 2**21 + 1)[:, None].expand(-1, 9)
    assert quantile(mass, 0.95).tolist() == pytest.approx([0.95] * 9)


def test_every_number_says_what_it_is(run_path: Path) -> None:
    settings = Settings(lengths=(16,), sequences=2, train_length=False)
    results = measure(sinks, open_subject(run_path), settings)["results"]
    measured = results["lengths"]["16"]
    assert measured["protocol"]["bos"] is True
    named = set(measured) | set(measured["published"])
    undefined = named - set(results["definitions"])
    assert undefined == {"sequences", "tokens", "protocol", "published", "heads"}


def test_lengths_that_cannot_be_had_are_skipped_with_a_reason(run_path: Path) -> None:
    settings = Settings(lengths=(16, 200, 90_000), longest=50_000, train_length=False, sequences=2)
    results = measure(sinks, open_subject(run_path), settings)["results"]
    assert list(results["lengths"]) == ["16"]
    reasons = {entry["length"]: entry["reason"] for entry in results["skipped"]}
    assert reasons[200] == "the model is limited to 128 positions"
    assert reasons[90_000] == "longer than --longest 50000"
    with pytest.raises(ModelError, match=r"sinks cannot be measured for plain: .*limited to 128"):
        measure(sinks, open_subject(run_path), Settings(lengths=(200,), train_length=False))


@pytest.mark.slow
def test_short_text_gives_overlapping_windows_and_says_so(run_path: Path) -> None:
    result = measure(
        sinks, open_subject(run_path), Settings(lengths=(100,), train_length=False, sequences=128)
    )
    assert result["results"]["lengths"]["100"]["sequences"] == 128
    assert result["protocol"]["windows"]["100"]["overlapping"] is True
    assert result["protocol"]["windows"]["100"]["bos"] is True
