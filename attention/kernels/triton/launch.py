"""The plan of a call: its kernels with grids, arguments and outputs, ready to run or to compile for another machine."""

from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import torch
import triton
from torch import Tensor

from attention.kernels.triton import backward, forms, forward
from attention.kernels.triton.form import Form
from attention.kernels.triton.operands import INTERPRETED, Operands
from attention.kernels.triton.printer import load
from attention.kernels.triton.tiles import INTERPRETER, Tiles, tiles_for

WIDEST_SPLIT = 128
MERGE_ROWS = 16
FEW_ROWS = 16
FEWEST_ROWS = 16
"""Matrix instructions take no tile of fewer rows."""
MOST_SPLITS = 64
TILES_PER_SPLIT = 4


@dataclass(frozen=True)
class Call:
    """The tensors of a call as kernels take them; the biases and the slope are contiguous.

    Attributes:
        source, amplitude: the noise's seed and place, and its factor; None and 0 where there is none.
        printed: the name of the printed module.
        architecture: what is compiled for, "interpreter", "sm_90", "gfx942", ...
        processors: multiprocessors that few rows shall be spread over.
    """

    query: Tensor
    key: Tensor
    value: Tensor
    query_bias: Tensor | None
    key_bias: Tensor | None
    slope: Tensor | None
    first: Tensor
    last: Tensor
    position: Tensor
    scale: float
    source: Tensor | None
    amplitude: float
    printed: str
    architecture: str
    processors: int

    @property
    def places(self) -> int:
        """Rows of the output, B T H."""
        batch, queries, heads, _ = self.query.shape
        return batch * queries * heads

    @property
    def group(self) -> int:
        """Query heads per key head."""
        return self.query.shape[2] // self.key.shape[2]

    @property
    def form(self) -> Form:
        """The form of the mechanism."""
        return forms.of(load(self.printed))

    @property
    def width(self) -> int:
        """Padded channels of queries, keys and values, whichever has more."""
        return max(padded(self.query.shape[3]), padded(self.value.shape[3]))

    def tiles(self, sweep: str) -> Tiles:
        """The tiles of a sweep; in the backward pass with as many fewer rows as the form says."""
        tiles = tiles_for(self.architecture, sweep, self.width, self.query.element_size())
        fewer = self.form.fewer_rows.get(sweep, 1)
        return tiles if fewer == 1 else replace(tiles, rows=max(FEWEST_ROWS, tiles.rows // fewer))

    def row_programs(self, tiles: Tiles) -> int:
        """Programs that share the rows."""
        batch, queries, _, _ = self.query.shape
        return batch * self.key.shape[2] * triton.cdiv(queries * self.group, tiles.rows)

    def operands(self) -> Operands:
        """The operands that every kernel reads."""
        return Operands(
            self.query,
            self.key,
            self.value,
            self.query.stride(),
            self.key.stride(),
            self.value.stride(),
            self.query_bias,
            self.key_bias,
            self.slope,
            self.first,
            self.last,
            self.position,
            self.first.shape[1] if self.first.shape[0] > 1 else 0,
            self.scale,
            self.source,
            self.amplitude,
            self.query.shape[1],
            self.key.shape[1],
            self.query.shape[2],
        )

    def sizes(self, tiles: Tiles) -> dict[str, Any]:
        """Compile-time sizes of a sweep over queries and keys."""
        return {
            "group": self.group,
            "head_dim": self.query.shape[3],
            "head_block": padded(self.query.shape[3]),
            "block_rows": tiles.rows,
            "block_keys": tiles.keys,
            "precision": precision(self.architecture, self.width),
        }

    def value_sizes(self) -> dict[str, int]:
        """Compile-time sizes of the values."""
        return {"value_dim": self.value.shape[3], "value_block": padded(self.value.shape[3])}


@dataclass(frozen=True)
class Launch:
    """A kernel with its grid and arguments."""

    kernel: Any
    grid: tuple[int, ...]
    arguments: dict[str, Any]
    tiles: Tiles

    def run(self) -> None:
        """Launch it on the current device."""
        if self.grid[0]:
            self.kernel[self.grid](**self.arguments, num_warps=self.tiles.warps, num_stages=self.tiles.stages)


def padded(width: int) -> int:
    """The power of two, at least 16, that holds `width` channels."""
    return max(16, triton.next_power_of_2(width))


def precision(architecture: str, width: int) -> str:
    """The precision in which float32 operands of padded `width` are multiplied.

    NVIDIA's tensor cores take three TF32 products per float32 product, with the error of float32; operands wider than
    128, split in two, would not fit the registers, and are multiplied without tensor cores. AMD's matrix cores
    multiply float32 as it is.
    """
    return "tf32x3" if architecture.startswith("sm_") and width <= WIDEST_SPLIT else "ieee"


@cache
def architecture_of(device: torch.device) -> tuple[str, int]:
    """Name and multiprocessors of a device."""
    if INTERPRETED.value:
        return INTERPRETER, 1
    properties = torch.cuda.get_device_properties(device)
    if torch.version.hip:
        return properties.gcnArchName.split(":")[0], properties.multi_processor_count
    return f"sm_{properties.major}{properties.minor}", properties.multi_processor_count


def splits_of(call: Call, tiles: Tiles) -> int:
    """Parts of the keys: more than one where few rows meet many keys, as in decoding."""
    wanted = call.processors // max(1, call.row_programs(tiles))
    most = min(wanted, call.key.shape[1] // (TILES_PER_SPLIT * tiles.keys), MOST_SPLITS)
    return 1 << max(0, most.bit_length() - 1)


def plan_forward(call: Call) -> tuple[list[Launch], Tensor, Tensor]:
    """Launches that fill outputs [B, T, H, Dv] and the statistics of the form [Form.statistics, B, T, H]."""
    batch, queries, heads, _ = call.query.shape
    module, form = load(call.printed), call.form
    out = call.query.new_empty(batch, queries, heads, call.value.shape[3])
    statistics = call.query.new_empty(form.statistics, batch, queries, heads, dtype=torch.float32)
    tiles = call.tiles("decode" if queries * call.group <= FEW_ROWS else "mix")
    splits = splits_of(call, tiles)
    common = {
        "operands": call.operands(),
        "functions": module.FUNCTIONS,
        "places": call.places,
        **call.sizes(tiles),
    }
    grid = (call.row_programs(tiles), splits)
    parts = statistics.new_empty(form.parts, splits, batch, queries, heads) if form.parts else None
    launches = []
    for sweep in form.before:
        written = {"parts": parts, "splits": splits} if sweep.split else {"statistics": statistics}
        launches.append(Launch(sweep.kernel, grid if sweep.split else grid[:1], common | written, tiles))
    partial, partial_sums = None, None
    if splits > 1:
        partial = statistics.new_empty(splits, *out.shape)
        partial_sums = statistics.new_empty(2, splits, batch, queries, heads) if form.statistics else None
    outputs = {
        "form": form.rows,
        "pivot_floor": form.pivot_floor(module.CONSTANTS),
        "out": out,
        "statistics": statistics,
        "partial": partial,
        "partial_sums": partial_sums,
        "splits": splits,
        **call.value_sizes(),
    }
    arguments = {**common, **outputs, "parts": parts, "constants": module.CONSTANTS}
    launches.append(Launch(forward.mix, grid, arguments, tiles))
    if splits > 1:
        merging = {"functions": module.FUNCTIONS, "places": call.places, "block_rows": MERGE_ROWS, **outputs}
        programs = triton.cdiv(call.places, MERGE_ROWS)
        launches.append(Launch(forward.merge, (programs,), merging, Tiles(MERGE_ROWS, 0)))
    return launches, out, statistics


def plan_backward(
    call: Call, statistics: Tensor, grad_out: Tensor, grad_log_mass: Tensor | None = None
) -> tuple[list[Launch], tuple[Tensor, Tensor, Tensor, Tensor | None, Tensor | None]]:
    """Launches that fill the gradients of query, key, value and the two biases; all tensors contiguous."""
    batch, queries, heads, _ = call.query.shape
    form = call.form
    grad_query, grad_key, grad_value = (
        torch.empty_like(x, memory_format=torch.contiguous_format) for x in (call.query, call.key, call.value)
    )
    grad_query_bias, grad_key_bias = (
        None if x is None else torch.empty_like(x, dtype=torch.float32)
        for x in (call.query_bias, call.key_bias)
    )
    common = {
        "operands": call.operands(),
        "functions": load(call.printed).FUNCTIONS,
        "form": form.rows,
        "statistics": statistics,
        "kept": form.statistics,
        "grad_out": grad_out,
        "places": call.places,
        **call.value_sizes(),
    }
    launches = []
    sums = None
    if form.sums:
        sums = statistics.new_empty(form.sums, batch, queries, heads)
        tiles = call.tiles("sum_rows")
        arguments = {
            **common,
            **call.sizes(tiles),
            "gathered": form.gathered,
            "sums": sums,
            "grad_log_mass": grad_log_mass,
        }
        launches.append(Launch(backward.sum_rows, (call.row_programs(tiles),), arguments, tiles))
    tiles = call.tiles("grad_queries")
    arguments = {
        **common,
        **call.sizes(tiles),
        "sums": sums,
        "summed": form.sums,
        "grad_query": grad_query,
        "grad_query_bias": grad_query_bias,
    }
    launches.append(Launch(backward.grad_queries, (call.row_programs(tiles),), arguments, tiles))
    tiles = call.tiles("grad_keys")
    ranges = query_ranges(call.first, call.last, call.key.shape[1], tiles)
    arguments = {
        **common,
        **call.sizes(tiles),
        "sums": sums,
        "summed": form.sums,
        "ranges": ranges,
        "ranges_stride": ranges.stride(0) if ranges.shape[0] > 1 else 0,
        "grad_key": grad_key,
        "grad_value": grad_value,
        "grad_key_bias": grad_key_bias,
    }
    grid = (batch * call.key.shape[2] * triton.cdiv(call.key.shape[1], tiles.keys),)
    launches.append(Launch(backward.grad_keys, grid, arguments, tiles))
    return launches, (grad_query, grad_key, grad_value, grad_query_bias, grad_key_bias)


def query_ranges(first: Tensor, last: Tensor, keys: int, tiles: Tiles) -> Tensor:
    """The blocks of rows between the first and the last that see any key of a block of keys.

    Returns:
        int32 [B or 1, blocks of keys, 2]: start and stop.
    """
    sees = first < last
    padding = -first.shape[1] % tiles.rows
    low = torch.nn.functional.pad(first.where(sees, keys), (0, padding), value=keys)
    high = torch.nn.functional.pad(last.where(sees, 0), (0, padding), value=0)
    low, high = (x.unflatten(1, (-1, tiles.rows)) for x in (low, high))
    reached = high.amax(2).cummax(1).values
    left = low.amin(2).flip(1).cummin(1).values.flip(1)
    edges = torch.arange(0, keys + tiles.keys, tiles.keys, device=first.device).clamp(max=keys)
    edges = edges[: triton.cdiv(keys, tiles.keys) + 1].expand(len(first), -1)
    start = torch.searchsorted(reached, edges[:, :-1].contiguous(), right=True)
    stop = torch.searchsorted(left.contiguous(), edges[:, 1:].contiguous())
    return torch.stack([start, stop], -1).int()
