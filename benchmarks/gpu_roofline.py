"""What bounds each sweep of the GPU kernels, from the instructions of its loop: a prediction, made without a GPU.

    python -m benchmarks.gpu_roofline               # to benchmarks/gpu-roofline.md

A turn of the loop handles one tile of queries and keys. Its matrix products take at least as many clocks as the rate of
the tensor cores says, its exponentials and the like as many as that of their unit, all instructions together as many as
can be issued. The largest of the three bounds the loop; what remains of the tensor cores' rate is their share of it.
Waiting for memory, for each other, and what runs at the same time is left out: a kernel that runs will be slower.
"""

import re
from collections import Counter
from dataclasses import dataclass
from pathlib import Path

import torch
import triton

import attention
from attention.kernels.triton import launch
from attention.markdown import table
from benchmarks.gpu_static import AMD, MACHINES, NVIDIA, REPRESENTATIVES, Machine, build, launches, listing
from common.command import Parser, guarded

OUT = Path(__file__).parent / "gpu-roofline.md"

PRODUCTS = {"first_stage": 1, "survey": 1, "mix": 2, "sum_rows": 2, "grad_queries": 3, "grad_keys": 4}
"""Matrix products of a tile of queries and keys in each sweep."""


@dataclass(frozen=True)
class Rates:
    """What a multiprocessor does in a clock.

    Attributes:
        tensor: operations of bfloat16 matrix instructions, dense.
        special: instructions of the unit for exponentials and the like, by single threads.
        issued: instructions, by single threads.
        special_name: of those for exponentials and the like.
        issued_name: of those that share the ways of issue; AMD's scalar and matrix instructions have their own.
    """

    tensor: int
    special: int
    issued: int
    special_name: str = "MUFU"
    issued_name: str = ""


RATES = {
    "sm_80": Rates(2048, 16, 128),
    "sm_90": Rates(4096, 16, 128),
    "sm_100": Rates(8192, 16, 128),
    "gfx942": Rates(2048, 16, 64, "v_(exp|log|rcp|rsq|sqrt)_", "(?!s_|v_mfma_)"),
}
"""Of A100, H100, B200 and MI300X: the makers' dense peaks over clock and multiprocessors, rounded to a power of two."""


@dataclass(frozen=True)
class Bound:
    """Clocks that a turn of the loop takes at least, for each of three reasons."""

    tensor: float
    special: float
    issue: float

    @property
    def share(self) -> float:
        """Of the tensor cores' rate, at most."""
        return self.tensor / max(self.tensor, self.special, self.issue)

    @property
    def reason(self) -> str:
        """Which of the three is the largest."""
        clocks = {"tensor": self.tensor, "special": self.special, "issue": self.issue}
        return max(clocks, key=lambda name: clocks[name])


def bound(planned: launch.Launch, machine: Machine, rates: Rates, width: int) -> Bound:
    """The bound of a launch whose heads are `width` channels wide."""
    loop = inner_loop(listing(build(planned, machine), machine), machine)
    tiles, sweep = planned.tiles, planned.kernel.__name__
    threads = tiles.warps * (64 if machine.is_amd else 32)
    special, issued = (
        sum(n for name, n in loop.items() if re.match(names, name)) * threads
        for names in (rates.special_name, rates.issued_name)
    )
    products = 2 * PRODUCTS[sweep] * tiles.rows * tiles.keys * width
    return Bound(products / rates.tensor, special / rates.special, issued / rates.issued)


def inner_loop(text: str, machine: Machine) -> Counter[str]:
    """Instructions by name of the loop with the most matrix instructions; the shortest such, where loops are nested.

    Raises:
        ValueError: no loop has any.
    """
    name = re.compile(AMD if machine.is_amd else NVIDIA)
    labels: dict[str, int] = {}
    operations: list[str] = []
    best: tuple[int, int, Counter[str]] = (0, 0, Counter())
    for line in text.splitlines():
        if label := re.match(r"(\.L\w+):", line):
            labels[label[1]] = len(operations)
        if not (found := name.match(line)):
            continue
        operations.append(found[1])
        target = re.search(r"(?:BRA|branch\w*)\s.*?(\.L\w+)", line)
        if target and target[1] in labels:
            body = Counter(operations[labels[target[1]] :])
            tensor = sum(n for each, n in body.items() if re.match(machine.tensor_instruction, each))
            best = max(best, (tensor, -body.total(), body), key=lambda entry: entry[:2])
    if not best[0]:
        raise ValueError("no loop has matrix instructions")
    return best[2]


PREFACE = """# What bounds the GPU kernels

Written by `python -m benchmarks.gpu_roofline` with triton {version}, without a GPU. **A prediction: none of these
kernels has been run on a GPU.** bfloat16, heads of {width} channels, a causal call, and of each form the mechanism
whose program is longest: {chosen}.

A cell holds the share of the tensor cores' rate that the loop of a sweep can reach at most, and what keeps it from
more: `special`, the unit for exponentials and the like; `issue`, instructions of any kind; `tensor`, the tensor cores
themselves. Waiting is left out. Rates per clock and multiprocessor, from the makers' peaks:

{rates}
"""


def page(width: int) -> str:
    """All of it in Markdown."""
    rates = table(
        ["", "matrix operations", "special", "instructions"],
        [[f"`{name}`", *map(str, (x.tensor, x.special, x.issued))] for name, x in RATES.items()],
    )
    chosen = ", ".join(f"{name} ({attention.get(name).form.__name__})" for name in REPRESENTATIVES)
    parts = [PREFACE.format(version=triton.__version__, width=width, chosen=chosen, rates=rates).strip()]
    for architecture, machine in MACHINES.items():
        planned = [
            launches(attention.get(name), architecture, torch.bfloat16, width) for name in REPRESENTATIVES
        ]
        rows = []
        for sweep in PRODUCTS:
            bounds = [
                bound(each[sweep], machine, RATES[architecture], width) if sweep in each else None
                for each in planned
            ]
            rows.append([sweep, *("" if x is None else f"{x.share:.0%}, {x.reason}" for x in bounds)])
        forms = [attention.get(name).form.__name__ for name in REPRESENTATIVES]
        parts.append(f"## {architecture}\n\n{table(['sweep', *forms], rows)}")
    return "\n\n".join(parts) + "\n"


def main() -> None:
    """Write the page."""
    parser = Parser(description=__doc__.splitlines()[0])  # type: ignore[union-attr]
    parser.add_argument(
        "--width", type=int, default=64, choices=(32, 64, 128, 256), help="channels of a head"
    )
    OUT.write_text(page(parser.parse_args().width), encoding="utf-8")


if __name__ == "__main__":
    guarded(main)
