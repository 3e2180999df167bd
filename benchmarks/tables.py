"""Write the measurements of `bench_attention` as Markdown: a row per mechanism, a column per shape."""

from collections.abc import Callable
from typing import Any

from attention.markdown import table
from benchmarks.machine import describe

Entry = dict[str, Any]
Place = tuple[str, str, int, int]


def attention_page(raw: dict[str, Any]) -> str:
    """All tables, the machine first.

    Args:
        raw: what attention.json holds.
    """
    settings, times, memory = raw["settings"], raw["times"], raw["memory"]
    parts = [
        "# Attention: time and memory",
        f"{describe(raw['machine'])}.",
        f"{settings['heads']} heads of {settings['head_dim']}, {settings['key_heads']} key heads, causal; medians of "
        f"{settings['rounds']} rounds in which all candidates take turns. A cell is the time over that of torch's SDPA "
        "softmax (below 1 is faster), in brackets how many times faster than the same mechanism's plain formula, then "
        "the share of the measured peak of a matrix product, counting the visible pairs only.",
    ]
    for dtype, passes in dict.fromkeys((x["dtype"], x["passes"]) for x in times):
        peak = raw["peak_flops"][dtype]
        chosen = [x for x in times if (x["dtype"], x["passes"]) == (dtype, passes)]
        parts += [f"## {dtype}, {passes} (peak {peak / 1e9:,.0f} GFLOP/s)", time_table(chosen, peak)]
    if memory:
        parts += [
            f"## Peak memory, {memory[0]['dtype']}, forward + backward",
            "MiB over inputs, output and gradients; the plain formula in brackets.",
            memory_table(memory),
        ]
    reasons = sorted({f"- {x['candidate']} by {x['kernel']}: {x['refused']}" for x in times if x["refused"]})
    if reasons:
        parts += ["## Not measured", "\n".join(reasons)]
    return "\n\n".join(parts) + "\n"


def time_table(times: list[Entry], peak: float) -> str:
    """Time relative to SDPA and to the formula, and the share of the peak."""
    measured = {_place(x): x for x in times if x["seconds"]}
    sdpa = {(x["batch"], x["length"]): x["seconds"] for x in times if x["kernel"] == "torch"}

    def cell(place: Place) -> str:
        if place not in measured:
            return "–"
        seconds = measured[place]["seconds"]
        gflops = f"{measured[place]['flops'] / seconds / 1e9:,.0f} GFLOP/s"
        share = f"{measured[place]['flops'] / seconds / peak:.0%}"
        if place[1] == "torch":
            return f"{seconds * 1e3:.2f} ms, {gflops}, {share}"
        dense = measured.get((place[0], "dense", *place[2:]))
        faster = f" ({dense['seconds'] / seconds:.1f}x)" if dense and place[1] != "dense" else ""
        return f"{seconds / sdpa[place[2:]]:.2f}{faster}, {share}"

    return _by_shape(times, cell)


def memory_table(memory: list[Entry]) -> str:
    """MiB, and those of the formula."""
    measured = {_place(x): x["mebibytes"] for x in memory}

    def cell(place: Place) -> str:
        dense = measured.get((place[0], "dense", *place[2:]))
        bracket = f" ({dense:,.0f})" if dense is not None and place[1] != "dense" else ""
        return f"{measured[place]:,.0f}{bracket}" if place in measured else "–"

    return _by_shape(memory, cell)


def _place(entry: Entry) -> Place:
    return entry["candidate"], entry["kernel"], entry["batch"], entry["length"]


def _by_shape(entries: list[Entry], cell: Callable[[Place], str]) -> str:
    """The formula has rows of its own only where it is all that was measured."""
    shapes = dict.fromkeys((x["batch"], x["length"]) for x in entries)
    rows = dict.fromkeys((x["candidate"], x["kernel"]) for x in entries)
    alone = all(kernel in ("dense", "torch") for _, kernel in rows)
    lines = [
        [*row, *(cell((*row, *shape)) for shape in shapes)] for row in rows if row[1] != "dense" or alone
    ]
    return table(["mechanism", "kernel", *(f"{batch} x {length}" for batch, length in shapes)], lines)
