"""A norm of each head's output."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor

from models.errors import ModelError
from models.norms import norm
from models.postops.base import PostOp

if TYPE_CHECKING:
    from models.plan import LayerPlan, Plan


class OutputNorm(PostOp):
    """RMSNorm of each head's output, its weight shared by the heads.

    For mechanisms whose rows do not sum to one: heads of SWAT differ in size by orders of magnitude, and those of an
    unnormalised Gaussian grow with the number of keys in sight.
    """

    place = 2

    @dataclass
    class Options:
        """Keys of the model's config.

        Attributes:
            output_norm: RMS-normalise the output of each head.
        """

        output_norm: bool = False

    @classmethod
    def asked(cls, plan: "Plan") -> bool:
        """Where the config says so."""
        return plan.output_norm

    @classmethod
    def check(cls, plan: "Plan") -> None:
        """Refuse a second norm. ModelError: differential attention has one."""
        if plan.differential:
            raise ModelError(
                "differential attention norms the output of each head itself; leave output_norm false"
            )

    def __init__(self, plan: "Plan", layer: "LayerPlan") -> None:
        super().__init__(plan, layer)
        self.norm = norm(plan, plan.value_dim)

    def forward(self, heads: Tensor, x: Tensor) -> Tensor:
        """[B, T, H, D] to [B, T, H, D]; a head that gives zero stays zero."""
        return self.norm(heads)
