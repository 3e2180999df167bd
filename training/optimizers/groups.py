"""Which parameters decay."""

from typing import Any

from torch import Tensor, nn


def matrices(model: nn.Module) -> list[Tensor]:
    """The weights of linear layers and embeddings, each once."""
    found = {
        id(module.weight): module.weight
        for module in model.modules()
        if isinstance(module, nn.Linear | nn.Embedding)
    }
    return list(found.values())


def parameter_groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    """The matrices of linear layers and embeddings, which decay, and everything else, which does not.

    What does not decay: norms, and whatever a mechanism learns per head, whatever its shape. A tied embedding is the
    output projection as well and decays.
    """
    decaying = matrices(model)
    known = set(map(id, decaying))
    others = [parameter for parameter in model.parameters() if id(parameter) not in known]
    groups = [
        {"params": decaying, "weight_decay": weight_decay},
        {"params": others, "weight_decay": 0.0},
    ]
    return [group for group in groups if group["params"]]
