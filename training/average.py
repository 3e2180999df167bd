"""The moving average of a run's weights, and a run that has it for its weights.

    python -m training.average runs/NAME runs/NAME-ema

    a ← d a + (1 − d) w after every step,     d = min(decay, (1 + n) / (10 + n)),     n steps done

so that the first weights are soon forgotten (Polyak and Juditsky, 1992, average alike; the form is the usual one).
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

import torch
from torch import Tensor

from common.command import Parser, guarded
from storage import load_run
from storage.averaged import save_averaged
from training.sharding import local


class Average:
    """The average of parameters, in the parts that this process keeps.

    Attributes:
        weights: by name, as the parameters.
    """

    def __init__(self, parameters: Mapping[str, Tensor], decay: float) -> None:
        """Begin with the parameters as they are."""
        self._parameters = parameters
        self._decay = decay
        self.weights = {name: parameter.detach().clone() for name, parameter in parameters.items()}

    @torch.no_grad()
    def update(self, done: int) -> None:
        """Account for the parameters after so many steps."""
        decay = min(self._decay, (1 + done) / (10 + done))
        torch._foreach_lerp_(
            [local(weight) for weight in self.weights.values()],
            [local(parameter) for parameter in self._parameters.values()],
            1 - decay,
        )

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """While open, the parameters have the values of the average."""
        kept = {name: parameter.detach().clone() for name, parameter in self._parameters.items()}
        _copy(self.weights, self._parameters)
        try:
            yield
        finally:
            _copy(kept, self._parameters)

    def put(self, weights: Mapping[str, Tensor]) -> None:
        """Go on from an average that was kept."""
        _copy(weights, self.weights)


@torch.no_grad()
def _copy(values: Mapping[str, Tensor], places: Mapping[str, Tensor]) -> None:
    for name, place in places.items():
        place.copy_(values[name])


def main() -> None:
    """Parse the command line, write the run and say where it is."""
    parser = Parser(description="Write a run whose weights are the moving average (train.ema) of another's.")
    parser.add_argument("run", metavar="RUN", help="a run directory")
    parser.add_argument("out", metavar="OUT", help="the run directory to write")
    parser.add_argument("--step", type=int, help="the checkpoint to take (default: the newest)")
    arguments = parser.parse_args()
    print(save_averaged(load_run(arguments.run, arguments.step), arguments.out))


if __name__ == "__main__":
    guarded(main)
