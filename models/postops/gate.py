"""A gate on the heads' outputs."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from common.ranges import one_of
from models.postops.base import PostOp

if TYPE_CHECKING:
    from models.plan import LayerPlan, Plan


class Gate(PostOp):
    """y = out ⊙ sigmoid(x W_g): gated attention (Qiu et al., arXiv 2505.06708, gate G1).

    x is the block's normalised input. "headwise" has one gate per head, "elementwise" one per channel. The gate has no
    bias and starts like every projection, so it is about 1/2 at first.
    """

    place = 3

    @dataclass
    class Options:
        """Keys of the model's config.

        Attributes:
            gate: "none", "headwise" or "elementwise": multiply the heads' outputs by a sigmoid of the block's input.
        """

        gate: str = one_of("none", "headwise", "elementwise")

    @classmethod
    def asked(cls, plan: "Plan") -> bool:
        """Unless the config says none."""
        return plan.gate != "none"

    def __init__(self, plan: "Plan", layer: "LayerPlan") -> None:
        super().__init__(plan, layer)
        self.width = plan.value_dim if plan.gate == "elementwise" else 1
        self.projection = nn.Linear(plan.d_model, plan.n_output_head * self.width, bias=False)

    def forward(self, heads: Tensor, x: Tensor) -> Tensor:
        """[B, T, H, D] by x [B, T, d_model] to [B, T, H, D]."""
        return heads * self.projection(x).sigmoid().unflatten(-1, (-1, self.width))
