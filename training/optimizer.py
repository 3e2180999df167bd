"""AdamW and its schedule."""

import math
from typing import Any

from torch import nn
from torch.optim import AdamW

from training.config import TrainConfig


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The matrices of linear layers and embeddings, which decay, and everything else, which does not.

    What does not decay: norms, and whatever a mechanism learns per head, whatever its shape. A tied embedding is the
    output projection as well and decays.
    """
    matrices = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    others = [parameter for parameter in model.parameters() if id(parameter) not in matrices]
    groups = [
        {"params": list(matrices.values()), "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]


def build_optimizer(model: nn.Module, train: TrainConfig) -> AdamW:
    """Fused AdamW over `parameter_groups`."""
    return AdamW(
        parameter_groups(model, train.weight_decay),
        lr=train.learning_rate,
        betas=(train.beta1, train.beta2),
        eps=train.adam_epsilon,
        fused=True,
    )


def learning_rate(step: int, train: TrainConfig) -> float:
    """The rate of step 0, 1, .. steps - 1, a function of the step alone, so that resuming cannot shift it.

    Linear from peak / warmup_steps to the peak, which the last warm-up step has; then constant, or a cosine that ends
    at min_learning_rate * peak in the last step.
    """
    done = step + 1
    if done <= train.warmup_steps:
        return train.learning_rate * done / train.warmup_steps
    if train.schedule == "constant":
        return train.learning_rate
    progress = (done - train.warmup_steps) / (train.steps - train.warmup_steps)
    cosine = (1 + math.cos(math.pi * progress)) / 2
    return train.learning_rate * (train.min_learning_rate + (1 - train.min_learning_rate) * cosine)
