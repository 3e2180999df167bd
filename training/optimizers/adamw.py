"""AdamW (Loshchilov and Hutter, arXiv 1711.05101), fused."""

from dataclasses import dataclass

from torch import nn
from torch.optim import AdamW

from common.ranges import ranged
from training.optimizers.groups import parameter_groups

MEMORY = ({"step", "exp_avg", "exp_avg_sq"},)


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        weight_decay: AdamW's, on the weights of linear layers and embeddings only.
        beta1: decay of AdamW's mean of gradients.
        beta2: decay of AdamW's mean of squared gradients.
        adam_epsilon: added to the root of the latter.
    """

    weight_decay: float = ranged(0.1, 0.0, 1e6)
    beta1: float = ranged(0.9, 0.0, 1 - 2**-24)
    beta2: float = ranged(0.95, 0.0, 1 - 2**-24)
    adam_epsilon: float = ranged(1e-8, 0.0, 1.0, above=True)


def build(model: nn.Module, options: Options, learning_rate: float) -> AdamW:
    """AdamW over all parameters, of which the matrices decay."""
    return AdamW(
        parameter_groups(model, options.weight_decay),
        lr=learning_rate,
        betas=(options.beta1, options.beta2),
        eps=options.adam_epsilon,
        fused=True,
    )
