"""FlexAttention: the GPU kernel that PyTorch generates, fed with logarithms of a mechanism's pointwise functions.

FlexAttention is softmax over modified scores. Where the modified score is log f(s) for a function f >= 0, it returns

    mean_i = sum_j f(s_ij) v_j / sum_j f(s_ij)        and        total_i = log sum_j f(s_ij)

from which every form without a second stage follows, and by autograd its gradient:

    Pointwise    out = mean e^total                                               f = weight
    Ratio        out = mean e^(total - log(offset + sum_j denominator))           f = numerator

A Ratio's functions are taken at a pivot of each score's own, max(score, pivot_floor), and the pivot is added to the
logarithm, so nothing overflows. Where the denominator is another function, its sum takes a second pass; an offset in
the frame of the row's maximum takes a forward pass for that maximum. On a CPU FlexAttention has no backward pass.

Weights come back from FlexAttention as e^{log f - total}, which costs a relative error of machine epsilon times |total|
where the formula divides: on large scores float32 gradients are about four times less exact than the formula's.

The formulas are tested on a CPU; the generated GPU kernels have never been run by this project. As all compiled code
they have to prove themselves (`attention.kernels.proof`), in a model that torch.compile traces when it runs.
"""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, fx
from torch.nn import functional

from attention.core.errors import AttentionError
from attention.core.formula import Formula, Function, Operand, formula_of, untraceable
from attention.core.inputs import AttentionInputs
from attention.core.masks import Visibility
from attention.core.mechanism import Mechanism
from attention.core.modes import first_order
from attention.forms.composite import Mixture
from attention.forms.pointwise import Pointwise
from attention.forms.ratio import Ratio
from attention.kernels.kernel import Kernel
from attention.kernels.proof import flaw, sources

BLOCK = 128
SMALLEST_HEAD_DIM = 16
COMPILATIONS = 256
SMALLEST = torch.finfo(torch.float32).tiny
"""Smaller weights count as zero: the reciprocal, hence the gradient of the logarithm, would overflow."""

DTYPES = (torch.float32, torch.bfloat16)
"""float16 is left out: gradients of logarithms, which cancel later, overflow it."""

ScoreMod = Callable[[Tensor, Tensor, Tensor, Tensor, Tensor], Tensor]
"""(scaled dot product, batch, head, row, column) -> what takes its place; all scalars."""


@torch.compiler.disable(reason="its kernels are compiled on their own; the model around them compiles")
def attend(inputs: AttentionInputs) -> Tensor:
    """Outputs [B, T, H, Dv].

    Raises:
        AttentionError: on this device the generated kernel does not compute the mechanism's formula.
    """
    if reason := flaw(KERNEL, inputs):
        raise AttentionError(
            f"kernel 'flex' cannot run {inputs.mechanism.name} here: {reason}; use another kernel"
        )
    scores = inputs.scores
    tensors = (scores.query, scores.key, inputs.value, scores.query_bias, scores.key_bias)
    query, key, value, query_bias, key_bias = first_order("kernel 'flex'", *tensors)
    scores = replace(scores, query=query, key=key, query_bias=query_bias, key_bias=key_bias)
    return _attend(replace(inputs, scores=scores, value=value))


def _attend(inputs: AttentionInputs) -> Tensor:
    flex, formula = _Flex(inputs), formula_of(inputs.mechanism)
    if inputs.mechanism.form is Pointwise:
        mean, total = flex.mix(inputs.value, logarithm(formula["weight"], 0, None))
        mass = total.exp()
    else:
        terms, floor = formula["terms"], _floor(formula)
        mean, total = flex.mix(inputs.value, logarithm(terms, 0, floor))
        denominator = total
        if terms.results[0] != terms.results[1]:
            narrow = inputs.value[..., :SMALLEST_HEAD_DIM].detach()
            denominator = flex.mix(narrow, logarithm(terms, 1, floor))[1]
        mass = _quotient(total, denominator, _log_offset(flex, formula["offset"], floor))
    return (mean * mass[..., None]).to(mean.dtype).transpose(1, 2)


def _quotient(numerator: Tensor, denominator: Tensor, offset: Tensor | None) -> Tensor:
    """numerator / (denominator + offset) from the logarithms of all three; 0, without gradient, where numerator is."""
    zero = numerator == -torch.inf
    numerator, denominator = numerator.masked_fill(zero, 0), denominator.masked_fill(zero, 0)
    total = denominator if offset is None else torch.logaddexp(denominator, offset)
    return (numerator - total).exp().masked_fill(zero, 0)


def _log_offset(flex: "_Flex", offset: Function, floor: float | None) -> Tensor | None:
    """Logarithm of the denominator's constant outside the pivot's frame, [B, H, T]; None where it is 0."""
    if offset.results == (0.0,):
        return None
    pivot = flex.pivot(floor)
    return evaluate(offset, pivot)[0].log() + pivot


@cache
def logarithm(function: Function, result: int, floor: float | None) -> Callable[[Tensor], Tensor]:
    """log f(s), for one result of a pointwise function; -inf, without gradient, where f is 0.

    What comes back is straight-line code of its own with literal constants, which torch.compile keeps apart from that
    of other mechanisms.

    Args:
        function: of a score, or of a score and a pivot.
        result: its place among what the function returns.
        floor: the least pivot; None for pivot 0.
    """

    def log_of(score: Tensor) -> Tensor:
        pivot = _own_pivot(score, floor)
        value = evaluate(function, score, pivot)[result]
        positive = value > SMALLEST
        return torch.where(positive, value, 1.0).log() + pivot + positive.float().log()

    return fx.symbolic_trace(log_of)


def _own_pivot(score: Tensor, floor: float | None) -> Tensor:
    """The pivot of a row that has no other score."""
    if floor is None:
        return torch.zeros_like(score)
    return score if floor == -math.inf else score.clamp(min=floor)


def evaluate(function: Function, *arguments: Tensor) -> list[Tensor]:
    """A traced function by operations that FlexAttention can differentiate and compile, none of them in place."""
    values = list(arguments[: len(function.arguments)])

    def value(operand: Operand) -> Tensor:
        return values[operand] if isinstance(operand, int) else torch.full_like(values[0], operand)

    for step in function.steps:
        if step.operation == "power":
            base, exponent = step.operands
            values.append(value(base) ** exponent)
        else:
            library: Any = functional if step.operation == "softplus" else torch
            values.append(getattr(library, step.operation)(*map(value, step.operands)))
    return [value(x) for x in function.results]


class _Flex:
    """FlexAttention on one inputs: what may see what, and the mechanism's score of a pair."""

    def __init__(self, inputs: AttentionInputs) -> None:
        self.scores, self.visible = inputs.scores, inputs.visible
        batch = inputs.value.shape[0]
        first, last = (
            edge.expand(batch, -1).int().contiguous() for edge in (self.visible.first, self.visible.last)
        )

        def sees(batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            return (first[batch, row] <= column) & (column < last[batch, row])

        self.sees = sees
        self.block_mask = block_mask(self.visible, sees)

    def mix(self, value: Tensor, function: Callable[[Tensor], Tensor]) -> tuple[Tensor, Tensor]:
        """Means of values weighted by e^function(score), [B, H, T, Dv], and the logarithm of the sum of weights."""
        mean, extra = self._run(value, function, "lse")
        return mean, extra.lse

    @torch.no_grad()
    def pivot(self, floor: float | None) -> Tensor:
        """The largest score of each row, raised to a floor, [B, H, T]; 0 for floor None and for rows without keys."""
        narrow = self.scores.key[..., :SMALLEST_HEAD_DIM]
        if floor is None:
            batch, queries, heads, _ = self.scores.query.shape
            return narrow.new_zeros(
                batch, heads, queries, dtype=torch.promote_types(narrow.dtype, torch.float32)
            )
        largest = self._run(narrow, lambda score: score, "max_scores")[1].max_scores.clamp(min=floor)
        return largest.masked_fill(largest == -torch.inf, 0)

    def _run(self, value: Tensor, function: Callable[[Tensor], Tensor], wanted: str) -> tuple[Tensor, Any]:
        from torch.nn.attention.flex_attention import AuxRequest

        scores = self.scores
        return fused()(
            scores.query.transpose(1, 2),
            scores.key.transpose(1, 2),
            value.transpose(1, 2),
            score_mod=self._score_mod(function),
            block_mask=self.block_mask,
            scale=scores.scale,
            enable_gqa=scores.key.shape[2] != scores.query.shape[2],
            return_aux=AuxRequest(**{wanted: True}),
        )

    def _score_mod(self, function: Callable[[Tensor], Tensor]) -> ScoreMod:
        query_bias, key_bias, slope = self.scores.query_bias, self.scores.key_bias, self.scores.slope
        offset, sees = self.visible.keys - self.scores.query.shape[1], self.sees

        def modified(product: Tensor, batch: Tensor, head: Tensor, row: Tensor, column: Tensor) -> Tensor:
            score = product
            if query_bias is not None:
                score = score + query_bias[batch, row, head]
            if key_bias is not None:
                score = score + key_bias[batch, column, head]
            if slope is not None:
                score = score + slope[head] * (row + offset - column)
            # A hidden entry has no say, but its gradient, 0 times whatever, must not be NaN.
            visible = sees(batch, head, row, column)
            return torch.where(visible, function(torch.where(visible, score, 0.0)), -torch.inf)

        return modified


@cache
def fused() -> Callable[..., Any]:
    """FlexAttention, compiled; a failure to compile is an error, never a fall back to the row matrix.

    Each function, dtype and kind of mask is a compilation of its own, of which PyTorch allows 8 by default.
    """
    from torch.nn.attention.flex_attention import flex_attention

    return several(torch.compile(flex_attention, fullgraph=True))


def several(compiled: Callable[..., Any]) -> Callable[..., Any]:
    """The same compiled function, with room for `COMPILATIONS` variants."""
    return torch._dynamo.config.patch(recompile_limit=COMPILATIONS)(compiled)


def block_mask(visible: Visibility, sees: Callable[..., Tensor]) -> Any:
    """The blocks in which some query sees some key, and those in which all see all, from the intervals alone."""
    from torch.nn.attention.flex_attention import BlockMask

    first, last, keys = visible.first, visible.last, visible.keys
    empty = first >= last

    def per_block(edge: Tensor, neutral: int) -> Tensor:
        padded = functional.pad(edge, (0, -edge.shape[1] % BLOCK), value=neutral)
        return padded.unflatten(1, (-1, BLOCK))

    start = torch.arange(0, keys, BLOCK, device=first.device)
    lowest = per_block(first.masked_fill(empty, keys), keys).amin(-1)[..., None]
    highest = per_block(last.masked_fill(empty, 0), 0).amax(-1)[..., None]
    from_all = per_block(first.masked_fill(empty, keys), 0).amax(-1)[..., None]
    to_all = per_block(last.masked_fill(empty, 0), keys).amin(-1)[..., None]
    whole = (start >= from_all) & (start + BLOCK <= to_all)
    partial = (start < highest) & (start + BLOCK > lowest) & ~whole

    def ordered(blocks: Tensor) -> tuple[Tensor, Tensor]:
        blocks = blocks[:, None]
        return blocks.sum(-1).int(), blocks.int().argsort(dim=-1, descending=True, stable=True).int()

    return BlockMask.from_kv_blocks(
        *ordered(partial),
        *ordered(whole),
        BLOCK_SIZE=BLOCK,
        mask_mod=sees,
        seq_lengths=(first.shape[1], keys),
    )


def _floor(formula: Formula) -> float | None:
    """The pivot's floor, None where there is no pivot."""
    pivoted = formula.form == "ratio" and formula.constant("pivoted")
    return formula.constant("pivot_floor") if pivoted else None


@torch.compiler.assume_constant_result
def _refuses(mechanism: Mechanism) -> str | None:
    if mechanism.form not in (Pointwise, Ratio):
        return f"it runs the forms Pointwise and Ratio, not {mechanism.form.__name__}"
    if torch.torch_version.TorchVersion(torch.__version__) < "2.9":
        return f"it needs torch 2.9 or newer, this is {torch.__version__}"
    return untraceable(mechanism)


@torch.compiler.assume_constant_result
def _has_no_logarithm(mechanism: Mechanism) -> str | None:
    return _negative_somewhere(mechanism)


@cache
def _negative_somewhere(mechanism: Mechanism) -> str | None:
    """Whether something is negative at some score."""
    formula = formula_of(mechanism)
    magnitude = torch.logspace(-8, 3, 2000, dtype=torch.float64)
    score = torch.cat([-magnitude, torch.zeros(1), magnitude])
    function = formula["weight" if mechanism.form is Pointwise else "terms"]
    values = evaluate(function, score, _own_pivot(score, _floor(formula)))
    return "it needs weights that are nowhere negative" if any((x < 0).any() for x in values) else None


class Flex(Kernel):
    """FlexAttention."""

    name = "flex"
    summary = "FlexAttention on CUDA from logarithms of the weights; no second stage; never run here"
    rank = 40
    proves_when_run = True

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Other forms than two, devices and types that the generated kernel does not serve."""
        query = inputs.scores.query
        reason = _refuses(inputs.mechanism)
        if reason is not None:
            return reason
        if inputs.scores.noise is not None:
            return "it adds no noise to scores"
        if query.device.type != "cuda":
            return f"it runs on CUDA, not on {query.device.type}, where FlexAttention has no backward pass"
        if query.dtype not in DTYPES:
            return f"it takes float32 and bfloat16, not {str(query.dtype).removeprefix('torch.')}"
        if min(query.shape[-1], inputs.value.shape[-1]) < SMALLEST_HEAD_DIM:
            return f"it takes head dimensions from {SMALLEST_HEAD_DIM} on"
        return None

    def build(self, inputs: AttentionInputs) -> str | None:
        """Nothing, but weights without a logarithm are found."""
        return _has_no_logarithm(inputs.mechanism)

    def code(self, mechanism: Mechanism) -> str:
        """The formula, and this file; torch's version is told in any case."""
        return f"{formula_of(mechanism).key}, {sources(Path(__file__))}"

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs."""
        return Mixture(attend(inputs), None)


KERNEL = Flex()
