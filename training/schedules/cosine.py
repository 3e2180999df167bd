"""Half a cosine from the peak down, at its end in the last step (Loshchilov and Hutter, arXiv 1608.03983)."""

import math
from dataclasses import dataclass

from common.ranges import ranged


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        min_learning_rate: where a cosine or a decay ends, as a fraction of the peak.
    """

    min_learning_rate: float = ranged(0.1, 0.0, 1.0)


def share(progress: float, options: Options) -> float:
    """(1 + cos π p) / 2 of the way from the end to the peak."""
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return options.min_learning_rate + (1 - options.min_learning_rate) * cosine
