"""Learning rates after the warm-up: one file each, found by listing this folder.

A file has `share(progress, options)`, the rate as a share of the peak when `progress` of the steps after the warm-up is
done (above 0, at most 1), and its `Options`, which are keys of `train`.
"""

from dataclasses import dataclass
from typing import Any

from common.listing import modules, options
from common.ranges import FLOAT32, one_of, ranged

SCHEDULES = modules(__name__)


@dataclass
class Options(*options(SCHEDULES.values())):  # type: ignore[misc]
    """Keys of `train`.

    Attributes:
        learning_rate: the peak.
        warmup_steps: steps of linear warm-up to the peak.
        schedule: the learning rate after the warm-up.
    """

    learning_rate: float = ranged(1e-3, 0.0, FLOAT32, above=True)
    warmup_steps: int = ranged(100, 0, 10**9)
    schedule: str = one_of("cosine", *(name for name in SCHEDULES if name != "cosine"))


def learning_rate(step: int, train: Any) -> float:
    """The rate of step 0, 1, .. steps - 1, a function of the step alone, so that resuming cannot shift it.

    Linear from peak / warmup_steps to the peak, which the last warm-up step has; then what `train.schedule` says.
    """
    done = step + 1
    if done <= train.warmup_steps:
        return float(train.learning_rate * done / train.warmup_steps)
    progress = (done - train.warmup_steps) / (train.steps - train.warmup_steps)
    return float(train.learning_rate * SCHEDULES[train.schedule].share(progress, train))
