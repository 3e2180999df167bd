"""Warm-up, stable, decay: the peak, and a line down at the end (Hu et al., arXiv 2404.06395)."""

from dataclasses import dataclass

from common.ranges import ranged
from training.schedules import cosine


@dataclass
class Options(cosine.Options):
    """Keys of `train`.

    Attributes:
        decay_share: of the steps after the warm-up, those over which wsd goes down.
    """

    decay_share: float = ranged(0.2, 0.0, 1.0, above=True)


def share(progress: float, options: Options) -> float:
    """1, then a line from 1 to `min_learning_rate` in the last step."""
    left = min(1.0, (1 - progress) / options.decay_share)
    return options.min_learning_rate + (1 - options.min_learning_rate) * left
