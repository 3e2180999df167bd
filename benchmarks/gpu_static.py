"""The compiled form of GPU kernels, without a GPU: registers, spills, shared memory, tensor instructions.

    python -m benchmarks.gpu_static             # every shipped tile, to benchmarks/gpu-static.md
    python -m benchmarks.gpu_static --choose    # the first candidate tile of each sweep that compiles without spills

Kernels are compiled through the same plans and the same compiler front end as a launch, from tensors without storage.
Nothing is run: this says nothing about results, races or speed.
"""

import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import triton
from triton.backends.compiler import GPUTarget

import attention
from attention.conformance import cases
from attention.core.formula import formula_of, untraceable
from attention.core.inputs import prepare
from attention.forms import rowwise_forms
from attention.forms.pointwise import Pointwise
from attention.kernels.triton import forms, launch, printer
from attention.kernels.triton.tiles import Tiles, tiles_for
from attention.markdown import table
from common.command import Parser, guarded

BINARIES = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
OUT = Path(__file__).parent / "gpu-static.md"


@dataclass(frozen=True)
class Machine:
    """Limits of an architecture: of a program, then of a multiprocessor."""

    target: GPUTarget
    shared_limit: int
    shared: int
    tensor_instruction: str

    @property
    def is_amd(self) -> bool:
        """Whether its binaries are AMD's."""
        return self.target.backend == "hip"


MACHINES = {
    "sm_80": Machine(GPUTarget("cuda", 80, 32), 99 << 10, 164 << 10, "HMMA"),
    "sm_90": Machine(GPUTarget("cuda", 90, 32), 227 << 10, 228 << 10, "HGMMA|HMMA"),
    "sm_100": Machine(GPUTarget("cuda", 100, 32), 227 << 10, 228 << 10, r"UTC\w*MMA|HMMA"),
    "gfx942": Machine(GPUTarget("hip", "gfx942", 64), 64 << 10, 64 << 10, "v_mfma_"),
}
"""sm_80 stands for all of Ampere and Ada, whose consumer cards allow a program 99 KiB."""

SWEEPS = {
    **{
        sweep.kernel.__name__: "mix"
        for name in rowwise_forms()
        if forms.has(name)
        for sweep in forms.load(name).before
    },
    "mix": "mix",
    "decode": "decode",
    "sum_rows": "sum_rows",
    "grad_queries": "grad_queries",
    "grad_keys": "grad_keys",
}
"""The tile of each sweep; those of the forms' own take that of `mix`."""

WIDTHS = (32, 64, 128, 256)
DTYPES = {"bf16": torch.bfloat16, "fp32": torch.float32}
FLOAT32_LIMIT = 64 * 64 * 64
"""Rows x keys x channels of a tile, above which float32 candidates are not tried: they spill and take minutes."""


def _representatives() -> tuple[str, ...]:
    mechanisms = map(attention.get, attention.names())
    programs = [formula_of(mechanism) for mechanism in mechanisms if untraceable(mechanism) is None]
    programs.sort(key=lambda program: sum(len(function.steps) for function in program.functions))
    longest = {program.form: program.mechanism for program in programs}
    return tuple(longest[form] for form in rowwise_forms() if forms.has(form))


REPRESENTATIVES = _representatives()
"""For each form that the kernels run, the mechanism with the longest program, the last by name among equals."""

SMALL = (Tiles(16, 64, 4, 2), Tiles(32, 16, 4, 1), Tiles(16, 16, 4, 1), Tiles(16, 16, 8, 1))

CANDIDATES = {
    "mix": [
        Tiles(128, 64, 4, 3),
        Tiles(128, 64, 8, 3),
        Tiles(128, 64, 8, 2),
        Tiles(64, 64, 4, 3),
        Tiles(64, 64, 4, 2),
        Tiles(128, 32, 8, 2),
        Tiles(64, 64, 8, 2),
        Tiles(64, 32, 4, 2),
        Tiles(64, 32, 8, 2),
        Tiles(32, 32, 4, 2),
        Tiles(32, 32, 8, 1),
        *SMALL,
    ],
    "decode": [
        Tiles(16, 128, 4, 3),
        Tiles(16, 64, 4, 3),
        Tiles(16, 64, 4, 2),
        Tiles(16, 32, 4, 2),
        Tiles(16, 32, 4, 1),
        *SMALL,
    ],
    "sum_rows": [
        Tiles(128, 64, 8, 2),
        Tiles(64, 64, 4, 2),
        Tiles(64, 32, 4, 2),
        Tiles(64, 32, 8, 2),
        Tiles(32, 32, 4, 2),
        Tiles(32, 32, 4, 1),
        *SMALL,
    ],
    "grad_queries": [
        Tiles(128, 64, 8, 2),
        Tiles(64, 64, 4, 2),
        Tiles(64, 64, 8, 2),
        Tiles(64, 32, 4, 2),
        Tiles(64, 32, 8, 2),
        Tiles(32, 32, 4, 2),
        Tiles(32, 32, 8, 1),
        Tiles(16, 32, 4, 1),
        *SMALL,
    ],
    "grad_keys": [
        Tiles(64, 128, 8, 2),
        Tiles(64, 64, 4, 2),
        Tiles(64, 64, 8, 2),
        Tiles(64, 32, 4, 2),
        Tiles(64, 32, 8, 2),
        Tiles(32, 64, 4, 2),
        Tiles(32, 64, 8, 2),
        Tiles(32, 32, 4, 2),
        Tiles(32, 32, 8, 1),
        Tiles(16, 32, 4, 1),
        *SMALL,
    ],
}
"""Best first, by what is known of such kernels; nothing here was timed."""


@dataclass(frozen=True)
class Compiled:
    """The facts in the binary of a launch.

    Attributes:
        spills: instructions that move registers to and from memory; on AMD the number of such registers.
        programs: how many fit a multiprocessor at once.
        tensor: matrix instructions by name.
        special: instructions of the special function unit, where they are counted.
    """

    registers: int
    spills: int
    shared: int
    programs: int
    tensor: Counter[str]
    instructions: int
    special: int = 0


NVIDIA, AMD = r"^\s*/\*[0-9a-f]{4,}\*/\s+(?:@!?U?P\w+\s+)?([A-Z0-9_]+)", r"^\t([a-z]\w+)"
"""The name of an instruction in a line of a listing."""


class _Driver:
    """Tells the compiler which device it compiles for."""

    def __init__(self, target: GPUTarget):
        self.target = target

    def get_current_target(self) -> GPUTarget:
        return self.target

    def get_current_device(self) -> str:
        return str(self.target.arch)

    def get_current_stream(self, device: str) -> int:
        return 0


def call(
    mechanism: attention.Mechanism,
    architecture: str,
    *,
    dtype: torch.dtype = torch.bfloat16,
    head_dim: int = 64,
    batch: int = 2,
    heads: int = 8,
    queries: int = 4096,
    keys: int = 4096,
    group: int = 4,
    processors: int = 1,
) -> launch.Call:
    """A causal call of tensors without storage."""
    with torch.device("meta"):
        query = torch.empty(batch, queries, heads, head_dim, dtype=dtype)
        key, value = (torch.empty(batch, keys, heads // group, head_dim, dtype=dtype) for _ in range(2))
        operands = prepare(query, key, value, mechanism).operands
    program = printer.module_name(formula_of(mechanism))
    return launch.Call(*operands, None, 0.0, program, architecture, processors)


def launches(
    mechanism: attention.Mechanism, architecture: str, dtype: torch.dtype, head_dim: int
) -> dict[str, launch.Launch]:
    """The launches of a forward and backward pass and of decoding, by sweep."""
    whole = call(mechanism, architecture, dtype=dtype, head_dim=head_dim)
    forward, out, statistics = launch.plan_forward(whole)
    backward, _ = launch.plan_backward(whole, statistics, torch.empty_like(out))
    few = call(mechanism, architecture, dtype=dtype, head_dim=head_dim, queries=1, processors=132)
    decode = launch.plan_forward(few)[0]
    named = {each.kernel.__name__: each for each in (*forward, *backward)}
    return {**named, "decode": next(x for x in decode if x.kernel.__name__ == "mix"), "merge": decode[-1]}


def compiled(planned: launch.Launch, machine: Machine) -> Compiled:
    """The facts of a launch for a machine."""
    kernel = build(planned, machine)
    return (_amd if machine.is_amd else _nvidia)(kernel, machine, planned.tiles)


def build(planned: launch.Launch, machine: Machine) -> Any:
    """Compile a launch for a machine, to Triton's kernel."""
    tiles, driver = planned.tiles, triton.runtime.driver
    before = driver._active
    driver.set_active(_Driver(machine.target))  # type: ignore[arg-type]
    try:
        return planned.kernel.warmup(
            grid=planned.grid, **planned.arguments, num_warps=tiles.warps, num_stages=tiles.stages
        )
    finally:
        driver._active = before


def listing(kernel: Any, machine: Machine) -> str:
    """The machine's instructions, one a line, with the labels that branches name."""
    if machine.is_amd:
        return str(kernel.asm["amdgcn"])
    return _told(kernel, "nvdisasm", "-c")


def _nvidia(kernel: Any, machine: Machine, tiles: Tiles) -> Compiled:
    usage = _told(kernel, "cuobjdump", "-res-usage")
    operations = Counter(re.findall(NVIDIA, listing(kernel, machine), re.MULTILINE))
    registers = int(re.search(r"REG:(\d+)", usage)[1])  # type: ignore[index]
    shared, threads = kernel.metadata.shared, 32 * tiles.warps
    fits = [
        65536 // (-(-registers // 8) * 8 * threads),
        machine.shared // (shared + 1024),
        2048 // threads,
        32,
    ]
    columns = getattr(kernel.metadata, "tmem_size", 0)
    if columns:
        fits.append(512 // columns)
    return Compiled(
        registers,
        operations["LDL"] + operations["STL"],
        shared,
        min(fits),
        _tensor(operations, machine),
        sum(operations.values()),
        operations["MUFU"],
    )


def _amd(kernel: Any, machine: Machine, tiles: Tiles) -> Compiled:
    text = listing(kernel, machine)

    def field(name: str) -> int:
        return int(re.search(rf"\.{name}:\s+(\d+)", text)[1])  # type: ignore[index]

    operations = Counter(re.findall(AMD, text, re.MULTILINE))
    registers = field("vgpr_count")
    waves = 4 * min(8, 512 // max(1, -(-registers // 8) * 8))
    fits = [waves // tiles.warps, machine.shared // max(1, kernel.metadata.shared)]
    return Compiled(
        registers,
        field("vgpr_spill_count"),
        kernel.metadata.shared,
        min(fits),
        _tensor(operations, machine),
        sum(operations.values()),
    )


def _tensor(operations: Counter[str], machine: Machine) -> Counter[str]:
    return Counter({k: n for k, n in operations.items() if re.match(machine.tensor_instruction, k)})


def _told(kernel: Any, tool: str, option: str) -> str:
    """The output of one of NVIDIA's tools for a kernel's binary."""
    with tempfile.NamedTemporaryFile(suffix=".cubin") as file:
        file.write(kernel.asm["cubin"])
        file.flush()
        command = [BINARIES / tool, option, file.name]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout


def retiled(planned: launch.Launch, tiles: Tiles) -> launch.Launch:
    """A launch with other tiles; for compiling only, since the grid stays."""
    blocks = {"block_rows": tiles.rows, "block_keys": tiles.keys}
    return replace(planned, arguments={**planned.arguments, **blocks}, tiles=tiles)


def choose(planned: list[launch.Launch], candidates: list[Tiles], machine: Machine) -> tuple[int, Tiles]:
    """The first candidate without spills for all of the launches, or the one with the fewest; spills come first."""
    best = (sys.maxsize, candidates[-1])
    for tiles in candidates:
        results = [compiled(retiled(each, tiles), machine) for each in planned]
        if all(result.shared <= machine.shared_limit and result.programs for result in results):
            best = min(best, (max(result.spills for result in results), tiles), key=lambda pair: pair[0])
        if best[0] == 0:
            break
    return best


def main() -> None:
    parser = Parser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument("--choose", action="store_true", help="print the tile of each sweep instead")
    parser.add_argument("--architectures", nargs="+", default=list(MACHINES), choices=list(MACHINES))
    parser.add_argument("--dtypes", nargs="+", default=list(DTYPES), choices=list(DTYPES))
    parser.add_argument("--widths", nargs="+", type=int, default=WIDTHS)
    arguments = parser.parse_args()
    if arguments.choose:
        for architecture in arguments.architectures:
            for dtype in (DTYPES[name] for name in arguments.dtypes):
                for width in arguments.widths:
                    _choose(architecture, dtype, width)
        return
    chosen = ", ".join(f"{name} ({attention.get(name).form.__name__})" for name in REPRESENTATIVES)
    limit = MACHINES["sm_80"].shared_limit >> 10
    parts = [PREFACE.format(version=triton.__version__, limit=limit, chosen=chosen)]
    for architecture in arguments.architectures:
        parts.append(f"## {architecture}\n\n{_shipped(architecture, arguments.dtypes, arguments.widths)}")
    parts.append(f"## Code size per mechanism\n\n{SIZES}\n\n{_sizes()}")
    OUT.write_text("\n\n".join(part.strip() for part in parts) + "\n", encoding="utf-8")


PREFACE = """# What the GPU kernels compile to

Written by `python -m benchmarks.gpu_static` with triton {version}, without a GPU. **This is static evidence:
none of these kernels has been run on a GPU, and nothing here is a time.** Every shipped tile is compiled through the
plans and the compiler front end of a real launch, for a causal call with 4 query heads per key head, and for the
mechanism of each form whose program is longest: {chosen}.

A cell holds registers per thread / spills / shared memory in KiB / programs that fit a multiprocessor / matrix
instructions in the code, and the rows of a tile where a form takes fewer. Spills are instructions that move registers
to or from memory, on gfx942 registers moved. `survey`, `first_stage` and `mix` are the forward pass, `decode` is `mix`
for few queries; `sum_rows`, `grad_queries` and `grad_keys` are the backward pass. The tiles of sm_80 serve consumer
cards too, which allow a program {limit} KiB.
"""

SIZES = """Machine instructions of the two sweeps that dominate, bfloat16, head_dim 64, sm_90, and among them those of
the special function unit (MUFU: 2^x, reciprocal, square root)."""


def _shipped(architecture: str, dtypes: list[str], widths: Sequence[int]) -> str:
    rows = []
    for dtype in dtypes:
        for width in widths:
            planned = [
                launches(attention.get(name), architecture, DTYPES[dtype], width) for name in REPRESENTATIVES
            ]
            for sweep in SWEEPS:
                users = [each.get(sweep) for each in planned]
                tiles = tiles_for(architecture, SWEEPS[sweep], width, DTYPES[dtype].itemsize)
                cells = [_cell(user, tiles, MACHINES[architecture]) if user else "" for user in users]
                tile = f"{tiles.rows} x {tiles.keys}, {tiles.warps} warps, {tiles.stages} stages"
                rows.append([dtype, str(width), sweep, tile, *cells])
    forms = [attention.get(name).form.__name__ for name in REPRESENTATIVES]
    return table(["dtype", "head_dim", "sweep", "tile", *forms], rows)


def _cell(planned: launch.Launch, tiles: Tiles, machine: Machine) -> str:
    result = compiled(planned, machine)
    numbers = (
        result.registers,
        result.spills,
        -(-result.shared // 1024),
        result.programs,
        sum(result.tensor.values()),
    )
    own = "" if planned.tiles == tiles else f" ({planned.tiles.rows} rows)"
    return " / ".join(map(str, numbers)) + own


def _sizes() -> str:
    rows = []
    for mechanism in cases():
        if untraceable(mechanism) or not forms.has(formula_of(mechanism).form):
            continue
        planned = launches(mechanism, "sm_90", torch.bfloat16, 64)
        results = [compiled(planned[sweep], MACHINES["sm_90"]) for sweep in ("mix", "grad_keys")]
        rows.append([f"`{mechanism!r}`", *(f"{x.instructions} ({x.special} MUFU)" for x in results)])
    return table(["mechanism", "mix", "grad_keys"], rows)


def _choose(architecture: str, dtype: torch.dtype, width: int) -> None:
    mechanisms = [attention.get(name) for name in REPRESENTATIVES]
    # Pointwise takes what serves the others.
    planned = [launches(x, architecture, dtype, width) for x in mechanisms if x.form is not Pointwise]
    for sweep, candidates in CANDIDATES.items():
        users = [each[name] for each in planned for name in SWEEPS if SWEEPS[name] == sweep and name in each]
        if dtype == torch.float32:
            candidates = [x for x in candidates if x.rows * x.keys * width <= FLOAT32_LIMIT] or candidates[
                -1:
            ]
        spills, tiles = choose(users, candidates, MACHINES[architecture])
        print((architecture, sweep, dtype.itemsize, width), tiles, f"spills {spills}", flush=True)


if __name__ == "__main__":
    guarded(main)
