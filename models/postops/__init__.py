"""What a block does to the outputs of attention before it projects them back, whatever the mechanism.

One file each, found by listing this folder: it defines a `PostOp`, whose options are keys of the model's config. A
post-op takes the heads' outputs and the block's normalised input and returns outputs of heads; they follow one another.
"""

from typing import TYPE_CHECKING

from torch import nn

from common.listing import classes, options
from models.postops.base import PostOp

if TYPE_CHECKING:
    from models.plan import LayerPlan, Plan

POST_OPS: dict[str, type[PostOp]] = dict(
    sorted(classes(__name__, PostOp).items(), key=lambda found: found[1].place)
)
"""All post-ops by name, in the order in which they are applied."""

OPTIONS = options(POST_OPS.values())
"""Their options: dataclasses that the model's config extends."""


def post_ops(plan: "Plan", layer: "LayerPlan") -> nn.ModuleDict:
    """The post-ops of a layer by name, in the order in which they are applied."""
    return nn.ModuleDict(
        {name: post_op(plan, layer) for name, post_op in POST_OPS.items() if post_op.asked(plan)}
    )
