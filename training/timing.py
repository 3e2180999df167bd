"""A training step to be timed: `attention.timing` takes several in turns."""

from collections.abc import Callable

import torch
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from training.config import TrainConfig
from training.losses import Loss
from training.optimizers import build_optimizer


def training_step(
    module: nn.Module, vocabulary: int, train: TrainConfig, device: torch.device, compiled: bool
) -> Callable[[], Tensor]:
    """A model with its optimiser and one batch, as a step to repeat; it returns the loss."""
    module.to(device)
    model = torch.compile(module) if compiled else module
    optimizer = build_optimizer(module, train)
    shape = (train.batch_size, train.length + 1)
    text = torch.randint(vocabulary, shape, device=device)
    tokens, targets = text[:, :-1].contiguous(), text[:, 1:].contiguous()
    autocast = torch.autocast(device.type, torch.bfloat16, enabled=train.precision == "bf16")
    clip = train.clip or float("inf")

    def step() -> Tensor:
        with autocast:
            loss = model(tokens, targets)
            total = (loss.total if isinstance(loss, Loss) else loss) / targets.numel()
        total.backward()
        norm = get_total_norm([p.grad for p in module.parameters() if p.grad is not None])
        clip_grads_with_norm_(module.parameters(), clip, norm)
        optimizer.step()
        optimizer.zero_grad()
        return total.detach()

    return step
