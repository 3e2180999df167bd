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


class Plain(MLP):
    """Two matrices with a function of each channel between them."""

    def __init__(self, d_model: int, d_ff: int) -> None:
        super().__init__(d_model, d_ff)
        self.up = nn.Linear(d_model, d_ff, bias=False)
        self.down = nn.Linear(d_ff, d_model, bias=False)

    @staticmethod
    def width(d_model: int) -> int:
        """4 d_model."""
        return 4 * d_model
