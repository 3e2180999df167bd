"""FlexAttention's formulas on a CPU, where its dense form stands in for the GPU kernel that PyTorch would generate."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import ClassVar

import pytest
import torch
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex

import attention
from attention import conformance
from attention.conformance.inputs import HOSTILE, Inputs, hostile, make, run
from attention.conformance.verdict import MIXED, judge
from attention.core.call import Call
from attention.core.formula import formula_of
from attention.core.inputs import example
from attention.core.masks import visibility
from attention.core.mechanism import Mechanism
from attention.core.scores import Scores
from attention.forms.pointwise import Pointwise
from attention.forms.ratio import Ratio
from attention.kernels import flex, proof
from tests.attention.conftest import REPRESENTATIVES, tiered

SERVED = [mechanism for mechanism in conformance.cases() if mechanism.form in (Pointwise, Ratio)]
pytestmark = pytest.mark.filterwarnings("ignore:flex_attention called without torch.compile")

MASKS = {
    "causal": {},
    "bidirectional": {"causal": False},
    "window": {"window": 4},
    "documents": {"documents": torch.tensor([[0] * 9 + [1] * 14, [-1] * 6 + [2] * 10 + [3] * 4 + [-1] * 3])},
    "nothing visible": {"documents": torch.full((2, 23), -1)},
}


REFUSES = flex.Flex.refuses


@pytest.fixture(autouse=True)
def on_cpu(monkeypatch):
    """FlexAttention without the two checks that keep gradients and row maxima from CPUs."""
    options = torch_flex._apply_kernel_options
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *tensors: None)
    monkeypatch.setattr(torch_flex, "_apply_kernel_options", lambda *given: options(*given[:5]))
    monkeypatch.setattr(flex, "fused", lambda: torch_flex.flex_attention)
    monkeypatch.setattr(flex.Flex, "refuses", lambda kernel, inputs: None)
    with proof.waived():
        yield


def cases(names: Iterable[str], of_all: str) -> list:
    """Each mechanism with each name; those that represent no form meet one name alone in `make test`."""
    return [
        tiered(
            mechanism,
            name,
            slow=True,
            exhaustive=mechanism.name not in REPRESENTATIVES and name != of_all,
        )
        for mechanism in SERVED
        for name in names
    ]


@pytest.mark.parametrize(("mechanism", "mask"), cases(MASKS, of_all="documents"))
def test_every_mask_equals_the_formula(mechanism, mask):
    mask = MASKS[mask]
    inputs = make(queries=20, keys=23, heads=4, key_heads=2, head_dim=16, value_dim=24)
    truth = run(inputs, mechanism, "dense", **mask)
    for name, tensor in run(inputs, mechanism, "flex", **mask).items():
        assert torch.allclose(tensor, truth[name], rtol=1e-9, atol=1e-11), name
    for dtype in (torch.float32, torch.bfloat16):
        assert_exact(mechanism, inputs.to(dtype), **mask)


@pytest.mark.parametrize(("mechanism", "name"), cases(HOSTILE, of_all="mixed magnitudes"))
def test_hostile_inputs(mechanism, name):
    inputs = hostile(name, batch=1, queries=40, heads=2, key_heads=1, head_dim=16)
    truth = run(inputs, mechanism, "dense")
    for name, tensor in run(inputs, mechanism, "flex").items():
        size = truth[name].abs().max().clamp(min=1.0)
        assert torch.allclose(tensor / size, truth[name] / size, rtol=1e-8, atol=1e-9), name
    assert_exact(mechanism, inputs.to(torch.float32))


def assert_exact(mechanism: Mechanism, inputs: Inputs, **mask) -> None:
    """At most twice the formula's error in the same dtype, plus what FlexAttention's e^{log f - total} rounds off.

    That is a relative error of epsilon times |log f|, which grows like the scores. What is learned sums the error of
    whole rows, whose share of the gradient FlexAttention takes from outputs already rounded to the dtype. Each call of
    FlexAttention rounds the gradient of its scores to the dtype before it multiplies by it, which the formula does not:
    a denominator of its own is a second mixing.
    """
    truth = run(inputs.to(torch.float64), mechanism, "dense", **mask)
    eager = run(inputs, mechanism, "dense", **mask)
    scores = attention.row_stats(inputs.query, inputs.key, mechanism, **mask).max_score
    rounding = 2 * torch.finfo(torch.float32).eps * (10 + float(scores.max()))
    mixings = 2 if has_own_denominator(mechanism) else 1
    for name, tensor in run(inputs, mechanism, "flex", **mask).items():
        slack = rounding if name in MIXED else rounding + torch.finfo(inputs.query.dtype).eps
        judge({name: tensor}, {name: truth[name]}, eager, "flex", slack, floor=1.0, mixings=mixings)


def has_own_denominator(mechanism: Mechanism) -> bool:
    """Whether the sum of a row is of another function than its weights, and takes a call of its own."""
    if mechanism.form is Pointwise:
        return False
    numerator, denominator, *_ = formula_of(mechanism)["terms"].results
    return numerator != denominator


@pytest.mark.slow
def test_gradients_of_zero_weights_are_zero():
    """Softpick of scores that are all negative: no weight, no gradient, and no NaN from the logarithm of nothing."""
    inputs = make(batch=1, queries=20, heads=2, key_heads=2, head_dim=16)
    inputs.query.data.abs_()
    inputs.key.data.abs_().neg_()
    for tensor in run(inputs.to(torch.float32), attention.get("softpick"), "flex").values():
        assert torch.equal(tensor, torch.zeros_like(tensor))


@pytest.mark.slow
def test_epsilon_counts_in_the_frame_of_the_row_maximum():
    """At an epsilon that matters, on scores whose maximum differs from row to row."""
    inputs = make(queries=20, keys=20, head_dim=16)
    inputs.query.data *= torch.linspace(0.1, 8, 20, dtype=torch.float64)[:, None, None]
    mechanism = attention.get("softpick", epsilon=0.5)
    truth = run(inputs, mechanism, "dense")
    for name, tensor in run(inputs, mechanism, "flex").items():
        assert torch.allclose(tensor, truth[name], rtol=1e-9, atol=1e-11), name


@dataclass(frozen=True)
class Powers(Pointwise):
    """A mechanism that this package does not know: operations with constants, a power, a weight that can vanish."""

    name: ClassVar[str] = "powers"

    def weights(self, score: Tensor, visible: Tensor) -> Tensor:
        return self.weight(score)

    def weight(self, score: Tensor) -> Tensor:
        return (0.25 + score.clamp(min=-0.5, max=2.0)).relu() ** 2.5

    def weight_derivative(self, score: Tensor, weight: Tensor) -> Tensor:
        return 2.5 * (0.25 + score.clamp(min=-0.5, max=2.0)).relu() ** 1.5 * (score > -0.25) * (score < 2)


@pytest.mark.slow
def test_a_new_mechanism_works_by_existing():
    inputs = make(queries=20, keys=23, head_dim=16)
    truth = run(inputs, Powers(), "dense")
    for name, tensor in run(inputs, Powers(), "flex").items():
        assert torch.allclose(tensor, truth[name], rtol=1e-9, atol=1e-11), name


class Growing(Powers):
    """e^{s + bias}, the bias learned per head."""

    name = "growing"

    def parameters(self, n_head: int) -> dict[str, Tensor]:
        return {"bias": torch.zeros(n_head)}

    def scores(self, query: Tensor, key: Tensor, call: Call) -> Scores:
        return Scores(query, key, 0.25, query_bias=call.params["bias"].expand(query.shape[:3]))

    def weight(self, score: Tensor) -> Tensor:
        return score.exp()


@pytest.mark.slow
def test_hidden_scores_that_overflow_leave_no_trace():
    inputs = make(batch=1, queries=20, heads=2, key_heads=2, head_dim=16)
    inputs.key.data[:, 10:] *= 100  # e^s of hidden pairs fits float64 only
    inputs.query.data[:, 10:] = 0
    truth = run(inputs.to(torch.float64), Growing(), "dense", documents=(torch.arange(20) // 10)[None])
    result = run(inputs.to(torch.float32), Growing(), "flex", documents=(torch.arange(20) // 10)[None])
    for name, tensor in result.items():
        assert torch.allclose(tensor.double(), truth[name], rtol=1e-4, atol=1e-4), name


class Signed(Powers):
    name = "signed"

    def weight(self, score: Tensor) -> Tensor:
        return score.tanh()


@pytest.mark.parametrize(
    ("mechanism", "reason"),
    [
        (attention.get("lssar"), "it runs the forms Pointwise and Ratio, not TwoStage"),
        (attention.get("softpick"), "it runs on CUDA, not on cpu, where FlexAttention has no backward pass"),
    ],
    ids=["two stages", "CPU"],
)
def test_refusals_say_why(mechanism, reason):
    assert REFUSES(flex.KERNEL, example(mechanism)) == reason


def test_weights_without_a_logarithm_are_found():
    assert flex.KERNEL.build(example(Signed())) == "it needs weights that are nowhere negative"
    assert flex.KERNEL.build(example(attention.get("softpick"))) is None


@pytest.mark.slow
def test_several_functions_compile_side_by_side(monkeypatch):
    """Through the tracing of the real thing, but for the code generator, with torch's own limit out of the way."""
    compiled = torch.compile(torch_flex.flex_attention, fullgraph=True, backend="aot_eager")
    monkeypatch.setattr(flex, "fused", lambda: flex.several(compiled))
    inputs = make(queries=20, keys=23, head_dim=16)
    with torch._dynamo.config.patch(recompile_limit=1):
        for name in ("softmax", "lssa"):
            truth = run(inputs, attention.get(name), "dense")
            for key, tensor in run(inputs, attention.get(name), "flex").items():
                assert torch.allclose(tensor, truth[key], rtol=1e-9, atol=1e-11), key
    torch._dynamo.reset()


@pytest.mark.parametrize(
    "mask",
    [
        {},
        {"causal": False},
        {"window": 200},
        {"window": 100, "causal": False},
        {"documents": torch.arange(700)[None] // 150},
        {"documents": torch.stack([torch.arange(700) // 300 - 1, torch.full((700,), -1)])},
    ],
    ids=["causal", "bidirectional", "window", "window on both sides", "documents", "padding"],
)
@pytest.mark.parametrize("queries", [1, 300, 700])
def test_blocks_cover_the_mask_and_whole_ones_are_wholly_visible(mask, queries):
    visible = visibility(queries, 700, **mask)
    blocks = flex.block_mask(visible, lambda *indices: None)
    rows, columns = -queries % flex.BLOCK, -700 % flex.BLOCK
    seen = torch.nn.functional.pad(visible.mask().float(), (0, columns, 0, rows))
    seen = seen.unflatten(2, (-1, flex.BLOCK)).unflatten(1, (-1, flex.BLOCK))
    some, every = seen.amax((2, 4)).bool(), seen.amin((2, 4)).bool()
    whole = listed(blocks.full_kv_num_blocks, blocks.full_kv_indices)
    partial = listed(blocks.kv_num_blocks, blocks.kv_indices)
    assert not (whole & partial).any()
    assert not (some & ~(whole | partial)).any()
    padded = torch.zeros_like(whole)
    padded[:, -1] = rows > 0  # rows that do not exist may count as seeing everything
    assert not (whole & ~every & ~padded).any()
    if mask == {} and queries == 700:
        assert (int(whole.sum()), int(partial.sum())) == (15, 6)


def listed(counts: Tensor, indices: Tensor) -> Tensor:
    """The blocks [B, rows, columns] that a block mask lists."""
    place = torch.arange(indices.shape[-1]) < counts[..., None]
    return torch.zeros_like(place).scatter(-1, indices.long(), place)[:, 0]
