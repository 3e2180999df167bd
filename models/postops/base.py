"""What a post-op is."""

from typing import TYPE_CHECKING, ClassVar

from torch import Tensor, nn

if TYPE_CHECKING:
    from models.plan import LayerPlan, Plan


class PostOp(nn.Module):
    """A step between the outputs of attention and their projection back.

    Attributes:
        place: those with a lower one come first.
        Options: a dataclass whose fields are keys of the model's config.
    """

    place: ClassVar[int]
    Options: ClassVar[type]

    def __init__(self, plan: "Plan", layer: "LayerPlan") -> None:
        super().__init__()

    @classmethod
    def asked(cls, plan: "Plan") -> bool:
        """Whether a model has it."""
        raise NotImplementedError

    @classmethod
    def check(cls, plan: "Plan") -> None:
        """Refuse options that do not fit the model.

        Raises:
            ModelError: says what would be right.
        """

    def forward(self, heads: Tensor, x: Tensor) -> Tensor:
        """The heads' outputs [B, T, H, D] and the block's normalised input x [B, T, d_model] to outputs of heads."""
        raise NotImplementedError
