"""Pure PyTorch, a block of query rows at a time, on any device.

Forward and backward recompute scores block by block, so memory grows with T + S: a block holds at most BUDGET scores,
or MINIMUM_ROWS rows. Only queries, keys and values are kept for the backward pass.
"""

from collections.abc import Iterator
from dataclasses import dataclass, replace
from typing import Any

import torch
from einops import rearrange
from torch import Tensor

from attention.core.form import Rowwise, rowwise
from attention.core.inputs import AttentionInputs
from attention.core.masks import Tile, Visibility
from attention.core.modes import once
from attention.core.noise import gumbel
from attention.core.scores import Noise
from attention.forms.composite import Composite, Mixture
from attention.kernels.dense import visible_weights
from attention.kernels.kernel import Kernel

BUDGET = 1 << 21
MINIMUM_ROWS, MAXIMUM_ROWS = 32, 64


@torch.compiler.disable(reason="blocks depend on the mask's values; the model around them compiles")
def mix(inputs: AttentionInputs) -> Mixture:
    """Outputs [B, T, H, Dv], and log masses [B, T, H] of forms that have them (else None)."""
    found = [_attend(part) for part in parts(inputs)]
    if len(found) == 1:
        return Mixture(*found[0])
    outs, masses = zip(*found, strict=True)
    return Mixture(torch.cat(outs), None if masses[0] is None else torch.cat(masses))


def parts(inputs: AttentionInputs) -> list[AttentionInputs]:
    """The call as so few sequences at a time that blocks of theirs have all rows that they may have."""
    batch, queries, n_head, _ = inputs.scores.query.shape
    per_sequence = n_head * min(queries, MAXIMUM_ROWS) * inputs.visible.keys
    return inputs.split(min(batch, max(1, BUDGET // per_sequence)))


def _attend(inputs: AttentionInputs) -> tuple[Tensor, Tensor | None]:
    scores = inputs.scores
    return _TiledAttention.apply(
        scores.query, scores.key, inputs.value, scores.query_bias, scores.key_bias, inputs
    )


@dataclass(frozen=True)
class Block:
    """Some query rows against the keys they see: scores and weights [B, H, rows, keys], weights zero where hidden."""

    tile: Tile
    score: Tensor
    weight: Tensor


def score_blocks(inputs: AttentionInputs) -> Iterator[tuple[Tile, Tensor]]:
    """Scores [B, Hk, G, rows, keys], hidden entries included, block by block."""
    scores = inputs.scores
    operands = _Operands.of(scores.query, scores.key, scores.query_bias, scores.key_bias, inputs)
    for tile in operands.tiles():
        yield tile, operands.score(tile)


@torch.no_grad()
def blocks(inputs: AttentionInputs) -> Iterator[Block]:
    """The weights of `attend`, block by block, in float32 (float64 for float64).

    A composite's weights are those of its formula.
    """
    mechanism = inputs.mechanism
    for tile, score in score_blocks(inputs):
        if isinstance(mechanism, Composite):
            visible = inputs.visible.mask(tile.rows, tile.keys)[:, None]
            call = replace(inputs.call, count=inputs.call.count[:, tile.rows])
            weight = visible_weights(mechanism, call, score.flatten(1, 2), visible)
        else:
            elementary, form = _rowwise(inputs)
            weight, _ = form.row_weights(elementary, score, tile, tile_count(inputs.visible, tile))
            weight = weight.flatten(1, 2)
        yield Block(tile, score.flatten(1, 2), weight)


@dataclass(frozen=True)
class _Operands:
    """Heads first, the query heads of one key head side by side: [B, Hk, G, T, ...]."""

    query: Tensor
    key: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    slope: Tensor | None
    noise: Noise | None
    scale: float
    visible: Visibility

    @classmethod
    def of(
        cls,
        query: Tensor,
        key: Tensor,
        query_bias: Tensor | None,
        key_bias: Tensor | None,
        inputs: AttentionInputs,
    ) -> "_Operands":
        key_heads = key.shape[2]
        slope = inputs.scores.slope
        return cls(
            _heads_first(query, key_heads),
            rearrange(key, "b s k d -> b k s d").contiguous(),
            None if query_bias is None else rearrange(query_bias, "b t (k g) -> b k g t 1", k=key_heads),
            None if key_bias is None else rearrange(key_bias, "b s (k g) -> b k g 1 s", k=key_heads),
            None if slope is None else rearrange(slope, "(k g) -> k g 1 1", k=key_heads),
            inputs.scores.noise,
            inputs.scores.scale,
            inputs.visible,
        )

    def tiles(self) -> Iterator[Tile]:
        batch, key_heads, group, queries = self.query.shape[:4]
        per_row = max(1, batch * key_heads * group * self.key.shape[2])
        return self.visible.tiles(min(queries, max(MINIMUM_ROWS, min(MAXIMUM_ROWS, BUDGET // per_row))))

    def score(self, tile: Tile) -> Tensor:
        """Scores [B, Hk, G, rows, keys], hidden entries included."""
        wide = torch.promote_types(self.query.dtype, torch.float32)
        product = self.query[..., tile.rows, :].flatten(2, 3).to(wide) @ self.key[:, :, tile.keys].mT.to(wide)
        score = product.mul_(self.scale).unflatten(2, (self.query.shape[2], -1))
        if self.query_bias is not None:
            score += self.query_bias[..., tile.rows, :]
        if self.key_bias is not None:
            score += self.key_bias[..., tile.keys]
        if self.slope is not None:
            position = self.visible.position[tile.rows, None]
            column = torch.arange(tile.keys.start, tile.keys.stop, device=position.device)
            score += self.slope * (position - column)
        if self.noise is not None:
            place = self.visible.position[tile.rows]
            shape = score.flatten(1, 2).shape
            drawn = gumbel(self.noise, shape, place, dtype=score.dtype, first_key=tile.keys.start)
            score += drawn.view_as(score)
        return score


class _TiledAttention(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        query_bias: Tensor | None,
        key_bias: Tensor | None,
        inputs: AttentionInputs,
    ) -> tuple[Tensor, Tensor | None]:
        ctx.save_for_backward(query, key, value, query_bias, key_bias)
        ctx.inputs = inputs
        operands = _Operands.of(query, key, query_bias, key_bias, inputs)
        values = rearrange(value, "b s k d -> b k s d").contiguous()
        mechanism, form = _rowwise(inputs)
        out = values.new_zeros(*operands.query.shape[:4], value.shape[-1])
        log_mass = None
        if form.has_mass:
            wide = torch.promote_types(query.dtype, torch.float32)
            log_mass = values.new_zeros(*out.shape[:4], 1, dtype=wide)
        for tile in operands.tiles():
            weight, mass = form.row_weights(
                mechanism, operands.score(tile), tile, tile_count(inputs.visible, tile)
            )
            if log_mass is not None and mass is not None:
                log_mass[..., tile.rows, :] = mass
            mixed = weight.to(value.dtype).flatten(2, 3) @ values[:, :, tile.keys]
            out[..., tile.rows, :] = mixed.unflatten(2, weight.shape[2:4])
        if log_mass is not None:
            log_mass = rearrange(log_mass, "b k g t 1 -> b t (k g)")
        ctx.set_materialize_grads(False)
        return rearrange(out, "b k g t d -> b t (k g) d"), log_mass

    @staticmethod
    @once("kernel 'tiled'", batched=False)
    def backward(
        ctx: Any, grad_out: Tensor | None, grad_log_mass: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        query, key, value, query_bias, key_bias = ctx.saved_tensors
        inputs: AttentionInputs = ctx.inputs
        operands = _Operands.of(query, key, query_bias, key_bias, inputs)
        mechanism, form = _rowwise(inputs)
        values = rearrange(value, "b s k d -> b k s d").contiguous()
        if grad_out is None:
            grad_out = value.new_zeros(*query.shape[:3], value.shape[-1])
        grad_mixed = _heads_first(grad_out, key.shape[2])
        if grad_log_mass is not None:
            grad_log_mass = _heads_first(grad_log_mass[..., None], key.shape[2])
        wide = torch.promote_types(query.dtype, torch.float32)
        grad_query = torch.zeros_like(operands.query)
        grad_key = torch.zeros_like(operands.key, dtype=wide)
        grad_value = torch.zeros_like(values, dtype=wide)
        grad_query_bias = _zeros_like(operands.query_bias)
        grad_key_bias = _zeros_like(operands.key_bias)
        for tile in operands.tiles():
            grad_rows = grad_mixed[..., tile.rows, :].flatten(2, 3)
            score = operands.score(tile)
            grad_weights = (grad_rows @ values[:, :, tile.keys].mT).to(score.dtype).view_as(score)
            grad_mass = None if grad_log_mass is None else grad_log_mass[..., tile.rows, :]
            weight, grad_score = form.row_gradients(
                mechanism, score, tile, tile_count(inputs.visible, tile), grad_weights, grad_mass
            )
            if grad_query_bias is not None:
                grad_query_bias[..., tile.rows, :] = grad_score.sum(-1, keepdim=True)
            if grad_key_bias is not None:
                grad_key_bias[..., tile.keys] += grad_score.sum(-2, keepdim=True)
            weight = weight.to(value.dtype).flatten(2, 3)
            narrow = grad_score.mul_(operands.scale).to(query.dtype).flatten(2, 3)
            grad_query[..., tile.rows, :] = (narrow @ operands.key[:, :, tile.keys]).unflatten(
                2, score.shape[2:4]
            )
            grad_key[:, :, tile.keys] += narrow.mT @ operands.query[..., tile.rows, :].flatten(2, 3)
            grad_value[:, :, tile.keys] += weight.mT @ grad_rows
        return (
            rearrange(grad_query, "b k g t d -> b t (k g) d"),
            rearrange(grad_key, "b k s d -> b s k d").to(key.dtype),
            rearrange(grad_value, "b k s d -> b s k d").to(value.dtype),
            None if grad_query_bias is None else rearrange(grad_query_bias, "b k g t 1 -> b t (k g)"),
            None if grad_key_bias is None else rearrange(grad_key_bias, "b k g 1 s -> b s (k g)"),
            None,
        )


def _rowwise(inputs: AttentionInputs) -> tuple[Rowwise, type[Rowwise]]:
    """The mechanism, which `refuses` has let through, and its form."""
    found = rowwise(inputs.mechanism)
    assert found is not None
    return found


def tile_count(visible: Visibility, tile: Tile) -> Tensor:
    """n_i of the tile's rows, [B or 1, 1, 1, rows, 1]."""
    return visible.count[:, None, None, tile.rows, None]


def _zeros_like(tensor: Tensor | None) -> Tensor | None:
    return None if tensor is None else torch.zeros_like(tensor)


def _heads_first(tensor: Tensor, key_heads: int) -> Tensor:
    return rearrange(tensor, "b t (k g) d -> b k g t d", k=key_heads).contiguous()


class Tiled(Kernel):
    """Blocks of rows in PyTorch."""

    name = "tiled"
    summary = "PyTorch, blocks of rows, memory linear in length, any device"
    rank = 60
    gives_mass = True

    def refuses(self, inputs: AttentionInputs) -> str | None:
        """Forms without row functions."""
        mechanism = inputs.mechanism
        return None if rowwise(mechanism) else f"it has no row functions for form {mechanism.form.__name__}"

    def run(self, inputs: AttentionInputs, *, with_mass: bool = False) -> Mixture:
        """Outputs, and log masses of forms that have them."""
        return mix(inputs)


KERNEL = Tiled()
