"""The picture of `bench_attention`: time and memory over length, a panel per mechanism."""

from pathlib import Path
from typing import Any

from benchmarks.machine import describe

STYLES = {
    "here": {"color": "#0072B2", "marker": "o", "linewidth": 2.2},
    "window": {"color": "#009E73", "marker": "^", "linewidth": 2.2},
    "SDPA": {"color": "#000000", "marker": "s", "linestyle": "--", "linewidth": 1.4},
    "dense": {"color": "#D55E00", "marker": "x", "linestyle": ":", "linewidth": 1.6},
}
"""Colours of Okabe and Ito's palette; each line also has its own marker and dashes."""


BAND = 7
"""Mechanisms side by side at most."""


def draw_speed(raw: dict[str, Any], path: Path) -> None:
    """Milliseconds and MiB per sequence, forward and backward, in the first dtype measured.

    Args:
        raw: what attention.json holds.
        path: the PNG file.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot
    from matplotlib.ticker import FuncFormatter, NullLocator

    dtype = raw["times"][0]["dtype"]
    times = [x for x in raw["times"] if x["dtype"] == dtype and x["passes"] != "forward" and x["seconds"]]
    rows = [("ms per sequence", [x | {"height": x["seconds"] * 1e3 / x["batch"]} for x in times])]
    if raw["memory"]:
        # Less than a page has no place on a logarithmic axis.
        memory = [x | {"height": max(x["mebibytes"], 1 / 16) / x["batch"]} for x in raw["memory"]]
        rows.append(("MiB per sequence", memory))
    plain = list(
        dict.fromkeys(
            x["candidate"] for x in raw["times"] if x["kernel"] != "torch" and "," not in x["candidate"]
        )
    )
    bands = [plain[start : start + BAND] for start in range(0, len(plain), BAND)]
    width = max(map(len, bands))
    figure, axes = pyplot.subplots(
        len(rows) * len(bands),
        width,
        figsize=(2.0 * width + 0.8, 2.2 * len(rows) * len(bands) + 1.0),
        sharex=True,
        squeeze=False,
        layout="constrained",
    )
    for axis in axes.flat:
        axis.set_visible(False)
    lengths = sorted({x["length"] for x in times})
    panels = [(band, *row) for band in bands for row in rows]
    for row, (band, label, entries) in zip(axes, panels, strict=True):
        heights = [x["height"] for x in entries]
        for axis, name in zip(row, band, strict=False):
            axis.set_visible(True)
            for line, style in STYLES.items():
                points = sorted((x["length"], x["height"]) for x in entries if _line(x, name) == line)
                axis.plot(
                    *zip(*points, strict=True), label=_label(line), markersize=5, **style
                ) if points else None
            axis.set(xscale="log", yscale="log", ylim=(min(heights) / 1.5, max(heights) * 1.5))
            axis.set_title(name, fontsize=10)
            axis.set_xticks(lengths, [f"{x:,}" for x in lengths], rotation=45, fontsize=8)
            axis.xaxis.set_minor_locator(NullLocator())
            axis.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:g}"))
            axis.grid(alpha=0.3)
            axis.spines[["top", "right"]].set_visible(False)
            axis.tick_params(labelbottom=True, labelleft=axis is row[0])
        row[0].set_ylabel(label)
    lines = {
        label: line
        for axis in axes.flat
        for line, label in zip(*axis.get_legend_handles_labels(), strict=True)
    }
    figure.legend(lines.values(), lines.keys(), loc="outside upper center", ncols=4, frameon=False)
    figure.supxlabel(
        f"over length T, forward + backward, {dtype}; {describe(raw['machine'])}", fontsize=7, color="#555555"
    )
    figure.savefig(path, dpi=150)
    pyplot.close(figure)


def _line(entry: dict[str, Any], name: str) -> str | None:
    """Return the line of a mechanism's column that an entry belongs to."""
    candidate, _, window = entry["candidate"].partition(", window ")
    if entry["kernel"] == "torch":
        return "SDPA"
    if candidate != name or (window and entry["kernel"] == "dense"):
        return None
    return "dense" if entry["kernel"] == "dense" else "window" if window else "here"


def _label(line: str) -> str:
    return {
        "here": "this package",
        "window": "this package, with its window",
        "SDPA": "torch SDPA softmax",
        "dense": "the plain formula",
    }[line]
