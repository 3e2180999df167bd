"""The layers whose attention a subject reports, and what stands between the weights and the layer's output."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

GATE = "output gate"
"""A factor between 0 and 1 on the mixed values."""


@dataclass(frozen=True)
class Coverage:
    """The layers that analyses of attention measure.

    Attributes:
        layers: their numbers in the model, from 0; lists of layers in a result are in this order.
        of: how many layers the model has.
        left_out: why each of the others is none of them, by its number.
        followed_by: what changes the mixed values before the output projection, which weights do not show; None where
            nothing does.
    """

    layers: list[int]
    of: int
    left_out: Mapping[str, str] = field(default_factory=dict)
    followed_by: str | None = None

    @property
    def cell(self) -> str:
        """The layers in a table."""
        return f"all {self.of}" if len(self.layers) == self.of else f"{len(self.layers)} of {self.of}"

    @property
    def notes(self) -> list[str]:
        """Sentences on layers that are left out and on what follows the weights; none where there is nothing to say."""
        found = []
        if self.left_out:
            reasons: dict[str, list[int]] = {}
            for layer, reason in self.left_out.items():
                reasons.setdefault(reason, []).append(int(layer))
            others = "; ".join(f"not {ranges(numbers)}: {reason}" for reason, numbers in reasons.items())
            found.append(f"layers {ranges(self.layers)} of 0-{self.of - 1} ({others})")
        if self.followed_by is not None:
            found.append(f"weights are those before the {self.followed_by}")
        return found


def ranges(numbers: Sequence[int]) -> str:
    """Numbers that rise, in short: 0-2, 4."""
    runs: list[list[int]] = []
    for number in numbers:
        if runs and number == runs[-1][-1] + 1:
            runs[-1].append(number)
        else:
            runs.append([number])
    return ", ".join(f"{run[0]}-{run[-1]}" if len(run) > 1 else str(run[0]) for run in runs)
