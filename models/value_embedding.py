"""Value embeddings: what a token adds to its value, whatever its context."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from torch import Tensor, nn

from common.ranges import one_of

if TYPE_CHECKING:
    from models.plan import LayerPlan, Plan


@dataclass
class Options:
    """Keys of the model's config.

    Attributes:
        value_embeddings: layers whose values get a learned embedding of their token, gated by head: "none", "every", or
            "alternate", which is every other one, counted from the last.
    """

    value_embeddings: str = one_of("none", "alternate", "every")


class ValueEmbedding(nn.Module):
    """v_i + 2 sigmoid(x_i W_g) ⊙ E[token_i], one gate per value head, as modded-nanogpt and nanochat do it.

    E is a table of the layer's own, as wide as all of its value heads: vocab_size n_kv_head head_dim parameters that
    cost a lookup and no product. x is the block's normalised input. The gate has no bias and starts like every
    projection, so it is about 1 at first. It is added before the cache, which keeps the sum.
    """

    def __init__(self, plan: "Plan") -> None:
        super().__init__()
        self.width = plan.value_dim
        values = plan.n_kv_head * plan.head_dim
        self.embedding = nn.Embedding(plan.vocab_size, values)
        self.gate = nn.Linear(plan.d_model, values // plan.value_dim, bias=False)

    def forward(self, value: Tensor, tokens: Tensor, x: Tensor) -> Tensor:
        """Values [B, T, H, D], the tokens [B, T] and inputs x [B, T, d_model] that they came from, to values."""
        gate = 2 * self.gate(x).sigmoid().unsqueeze(-1)
        added = gate * self.embedding(tokens).unflatten(-1, (-1, self.width))
        return value + added.to(value.dtype)


def value_embedding(plan: "Plan", layer: "LayerPlan") -> ValueEmbedding | None:
    """The value embedding of a layer, None where it has none."""
    from_last = plan.n_layer - 1 - layer.depth
    if plan.value_embeddings == "none" or (plan.value_embeddings == "alternate" and from_last % 2):
        return None
    return ValueEmbedding(plan)
