"""The figures of a study: a forest of differences, and loss over steps as mean and band."""

from collections.abc import Sequence
from statistics import mean, stdev

from matplotlib.figure import Figure

from eval import display
from eval.display import Curve
from eval.drawing.style import INK, short, style
from eval.report.numbers import Number
from study.definition import Study
from study.evidence import Runs

BETTER, WORSE, OPEN = "#009e73", "#d55e00", "#8f939a"
"""Colours of a difference beyond the noise, to either side, and of one within it."""

ACROSS = 4
"""Panels beside each other."""


def forest(numbers: Sequence[Number], study: Study, across: int = ACROSS) -> Figure:
    """Differences from the baseline with their 95 % intervals over seeds: a row per variant, a panel per number.

    The band around zero is the noise: the smallest difference that so many seeds show, as `study.statistics.noise` has
    it. A number without an interval is a ring.
    """
    variants = [name for name in study.variants if name != study.file.baseline]
    columns = min(across, len(numbers))
    rows = -(-len(numbers) // columns)
    with style(**{"axes.grid": False}):
        figure = Figure(
            figsize=(1.1 + 2.1 * columns, rows * (0.24 * len(variants) + 0.75)), layout="constrained"
        )
        cells = figure.subplots(rows, columns, squeeze=False, sharey=True)
        for axes in cells.flat[len(numbers) :]:
            axes.set_axis_off()
        for axes, number in zip(cells.flat, numbers, strict=False):
            if number.noise.shows:
                axes.axvspan(-number.noise.shows, number.noise.shows, color=INK, alpha=0.06, linewidth=0)
            axes.axvline(0, color=INK, linewidth=0.6)
            for row, variant in enumerate(variants):
                if variant not in number.differences:
                    continue
                found = number.differences[variant]
                paint = {"better": BETTER, "worse": WORSE, None: OPEN}[number.verdict(variant)]
                if found.low is None or found.high is None:
                    axes.plot(found.mean, row, "o", color=paint, fillstyle="none")
                else:
                    axes.plot([found.low, found.high], [row, row], color=paint, solid_capstyle="butt")
                    axes.plot(found.mean, row, "o", color=paint)
            arrow = {"lower": " ↓", "higher": " ↑", None: ""}[number.better]
            axes.set_title(short(number.title, 32) + arrow, loc="left")
            axes.set_xlabel(short(number.unit, 32), fontsize=7.5)
            axes.set_yticks(range(len(variants)), variants)
            axes.set_ylim(len(variants) - 0.5, -0.5)
            axes.locator_params(axis="x", nbins=4)
            axes.tick_params(axis="y", length=0)
            axes.spines["left"].set_visible(False)
        return figure


def losses(runs: Runs, logged: str = "validation_loss") -> display.Figure:
    """Loss on held-out text over steps: the mean of each variant over its seeds, with their standard deviation."""
    curves = []
    for place, (variant, some) in enumerate(runs.items()):
        by_step: dict[int, list[float]] = {}
        for run in some.values():
            for step, value in run.logged(logged):
                by_step.setdefault(step, []).append(value)
        steps = sorted(step for step, values in by_step.items() if len(values) == len(some) and step > 0)
        if not steps:
            continue
        middle = [mean(by_step[step]) for step in steps]
        spread = [stdev(by_step[step]) if len(some) > 1 else 0.0 for step in steps]
        edges = (
            [a - b for a, b in zip(middle, spread, strict=True)],
            [a + b for a, b in zip(middle, spread, strict=True)],
        )
        curves.append(Curve(variant, place, steps, middle, band=edges))
    return display.Figure(
        "Loss on held-out text",
        "Nats per token: the mean over seeds, and one standard deviation of them to either side. Step 0 is left out.",
        curves,
        "step",
        "nats per token",
        log_x=10,
    )
