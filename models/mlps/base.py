"""What an MLP is."""

from torch import Tensor, nn


class MLP(nn.Module):
    """A function of each position alone, from [..., d_model] through d_ff channels to [..., d_model], without biases.

    Attributes:
        down: the projection back; a model initialises what is named so as a part of its residual stream.
    """

    down: nn.Linear

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__()

    @staticmethod
    def width(d_model: int) -> int:
        """The d_ff of a model that does not say."""
        raise NotImplementedError

    def forward(self, x: Tensor) -> Tensor:
        """[..., d_model] to [..., d_model]."""
        raise NotImplementedError
