"""OrthoGrad: gradients without the part that only rescales weights (Prieto et al., arXiv 2501.04697, "⊥Grad")."""

import torch
from torch import nn

_TINY = 1e-30


@torch.no_grad()
def orthogonalise(model: nn.Module) -> None:
    """Replace each gradient g by its part orthogonal to the weights w, as long as g was.

        g' = g − (w·g / w·w) w,     g ← g' ‖g‖ / ‖g'‖

    Each matrix of a linear layer by itself, as one vector. Left alone are embeddings, a tied head with them (a row of
    theirs is a word of its own), norms, and what a mechanism or a post-op learns as a vector. The norm of the whole
    gradient stays.
    """
    for module in model.modules():
        if isinstance(module, nn.Linear) and module.weight.grad is not None:
            weight, gradient = module.weight.float(), module.weight.grad.float()
            across = gradient - (weight * gradient).sum() / ((weight * weight).sum() + _TINY) * weight
            across *= gradient.norm() / (across.norm() + _TINY)
            module.weight.grad.copy_(across)
