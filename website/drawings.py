"""Drawings of a mechanism: the weight of one key as its score moves, and the weights of one row of scores.

They ask the library for weights as any user does, so that a new mechanism is drawn without a word about it here.
Scores are those of a scaled dot product: key j is s_j times the query's direction, plus a vector across it of the usual
length, so that mechanisms which look at angles or distances see vectors as a model has them.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache

import torch
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from torch import Tensor

from attention import INFERENCE, Mechanism, Phase, get, weights
from eval.drawing import style

HEAD_DIM = 64
OTHERS = 63
RANGE = (-6.0, 8.0)
BASELINE = "softmax"
WIDTH = 4.8
"""Of a drawing in inches: its letters are then large enough on a phone."""

LEAST = 1e-6
"""The smallest weight that a scale of decades shows; an exact zero is below every such scale."""

ROW = (1.9, -0.4, 0.7, -1.6, 0.2, -0.9, 1.1, 4.2, -0.3, 0.5, -2.1, 0.9, -0.6, 0.1, 1.4, -1.2,
       -0.1, 0.8, -1.8, 2.8, 0.3, -0.7, 1.0, -0.2, -1.4, 0.6, 0.0, 5.5, -0.8, 0.4, -1.0, 1.3)  # fmt: skip
"""Scores of the example: two keys stand out, the first stands a little above the rest."""


@dataclass(frozen=True)
class Row:
    """The weights of the example.

    Attributes:
        weight: of each key.
        training: of each key as in training, where that is another thing.
    """

    weight: Tensor
    training: Tensor | None = None

    def sentence(self) -> str:
        """Its sum, its zeros and its peak."""
        zeros = int((self.weight == 0).sum())
        return (
            f"The row sums to {_number(float(self.weight.sum()))}, {zeros or 'none'} of its {len(ROW)} weights "
            f"{'is' if zeros < 2 else 'are'} exactly zero, and the largest is {_number(float(self.weight.max()))}."
        )


@cache
def row(mechanism: Mechanism) -> Row:
    """The weights of the example's row."""
    scores = torch.tensor([ROW])
    weight = _weights(mechanism, scores, INFERENCE)[0]
    if not mechanism.follows_training:
        return Row(weight)
    phase = Phase(training=True, progress=0.5, seed=torch.tensor(0))
    training = _weights(mechanism, scores, phase)[0]
    return Row(weight, None if torch.equal(weight, training) else training)


@cache
def curve(mechanism: Mechanism) -> tuple[Tensor, Tensor]:
    """Scores of one key, and its weight beside others whose scores are spread as a normal distribution's."""
    moving = torch.linspace(*RANGE, 141)
    spread = torch.special.ndtri((torch.arange(OTHERS) + 0.5) / OTHERS)
    scores = torch.cat([spread.expand(len(moving), -1), moving[:, None]], dim=1)
    return moving, _weights(mechanism, scores, INFERENCE)[:, -1]


def draw_curve(name: str) -> str:
    """The weight function of a mechanism as inline SVG, softmax's beside it: as it is, and on a scale of decades."""
    with style.style():
        figure, (above, below) = _panels(2)
        for axes in (above, below):
            if name != BASELINE:
                axes.plot(*curve(get(BASELINE)), color=style.INK, alpha=0.55, linestyle="--", label=BASELINE)
            axes.plot(*curve(get(name)), color=style.colour(0), label=name, linewidth=2)
        above.set_ylabel("weight")
        above.legend(loc="upper left")
        below.set_yscale("log")
        below.set_ylim(bottom=LEAST)
        below.yaxis.set_major_formatter(lambda value, _: f"{value:g}")
        below.minorticks_off()
        below.set_ylabel("weight, in decades")
        below.set_xlabel("score of the key")
        return style.svg(figure, f"curve-{name}", f"Weight of one key by {name}, over its score")


def draw_row(name: str) -> str:
    """The example's scores and the weights that a mechanism gives them, as inline SVG."""
    found = row(get(name))
    shown = {"weights": found.weight}
    if found.training is not None:
        shown["in training"] = found.training
    baseline = row(get(BASELINE)).weight
    with style.style():
        figure, (above, *below) = _panels(1 + len(shown))
        place = range(len(ROW))
        above.bar(place, ROW, color=style.INK, alpha=0.45, width=0.7)
        above.set_ylabel("scores")
        for axes, (title, weight) in zip(below, shown.items(), strict=True):
            axes.bar(place, weight, color=style.colour(0), width=0.7, label=name)
            if name != BASELINE:
                axes.plot(place, baseline, "_", color=style.INK, alpha=0.8, markersize=7, label=BASELINE)
            axes.set_ylabel(title)
        if name != BASELINE:
            below[0].legend(loc="upper left", ncols=2)
        below[-1].set_xlabel("key")
        return style.svg(figure, f"row-{name}", f"Scores of one row, and the weights that {name} gives them")


def _panels(count: int) -> tuple[Figure, Sequence[Axes]]:
    """A figure of so many panels, one above the other; its margins are fixed, since finding them takes longest."""
    height = 0.55 + 1.55 * count
    figure = Figure(figsize=(WIDTH, height))
    panels = figure.subplots(count, 1, sharex=True)
    margins = {"left": 0.78 / WIDTH, "right": 0.98, "bottom": 0.42 / height, "top": 1 - 0.1 / height}
    figure.subplots_adjust(**margins, hspace=0.14)
    figure.align_ylabels()
    return figure, panels


def _weights(mechanism: Mechanism, scores: Tensor, phase: Phase) -> Tensor:
    """Weights [rows, keys] of these scores, by the mechanism's formula."""
    rows, keys = scores.shape
    across = torch.randn(keys, HEAD_DIM, generator=torch.Generator().manual_seed(0))
    key = across.expand(rows, -1, -1).clone()
    key[..., 0] = scores
    query = torch.zeros(rows, 1, 2, HEAD_DIM)
    query[..., 0] = HEAD_DIM**0.5
    both_heads = key[:, :, None].expand(-1, -1, 2, -1)
    return weights(query, both_heads, mechanism, kernel="dense", phase=phase)[:, 0, 0]


def _number(value: float) -> str:
    return f"{value:.2f}" if abs(value) >= 0.005 else f"{value:.1g}"
