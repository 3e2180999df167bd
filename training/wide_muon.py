"""torch's Muon for processors that do not multiply bfloat16.

`torch.optim.Muon` makes its directions in bfloat16, matrix by matrix. A processor without such products emulates them,
which costs several times what float32 does. There the same iteration runs in float32, over all matrices of one shape
together; everywhere else torch's own step is taken.
"""

from collections import defaultdict
from typing import Any

import torch
from torch import Tensor
from torch.optim import Muon

from storage.machine import multiplies_bfloat16


class WideMuon(Muon):
    """Muon, its updates scaled to the size of AdamW's: 0.2 sqrt(max(rows, columns)) (Liu et al., arXiv 2502.16982)."""

    def __init__(self, parameters: list[Tensor], **options: Any) -> None:
        super().__init__(parameters, adjust_lr_fn="match_rms_adamw", **options)

    @torch.no_grad()
    def step(self, closure: Any = None) -> Any:
        """Take torch's step, or the same in float32 on a device that has no bfloat16 products."""
        device = next(parameter.device for group in self.param_groups for parameter in group["params"])
        if multiplies_bfloat16(device):
            return super().step(closure)
        for group in self.param_groups:
            alike: dict[torch.Size, list[Tensor]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    alike[parameter.shape].append(parameter)
            for parameters in alike.values():
                self._move(parameters, group)
        return None

    def _move(self, parameters: list[Tensor], group: dict[str, Any]) -> None:
        """Decay matrices of one shape and move each along its direction."""
        rate, momentum = group["lr"], group["momentum"]
        updates = []
        for parameter in parameters:
            gradient, state = parameter.grad, self.state[parameter]
            assert gradient is not None
            if "momentum_buffer" not in state:
                state["momentum_buffer"] = torch.zeros_like(gradient)
            mean = state["momentum_buffer"].lerp_(gradient, 1 - momentum)
            updates.append(gradient.lerp(mean, momentum) if group["nesterov"] else mean)
        directions = orthogonal(
            torch.stack(updates).float(), group["ns_coefficients"], group["ns_steps"], group["eps"]
        )
        length = rate * 0.2 * max(parameters[0].shape) ** 0.5
        for parameter, direction in zip(parameters, directions, strict=True):
            parameter.mul_(1 - rate * group["weight_decay"])
            parameter.add_(direction.to(parameter.dtype), alpha=-length)


def orthogonal(
    matrices: Tensor, coefficients: tuple[float, float, float], steps: int, epsilon: float
) -> Tensor:
    """About U Vᵀ of each of [N, rows, columns] = U S Vᵀ, by Newton and Schulz: X ← a X + (b G + c G²) X, G = X Xᵀ.

    Singular values come out between about 0.7 and 1.2, as Muon has them (Jordan et al., 2024).
    """
    a, b, c = coefficients
    wide = matrices.mT if matrices.shape[1] > matrices.shape[2] else matrices
    wide = wide / wide.norm(dim=(1, 2), keepdim=True).clamp(min=epsilon)
    for _ in range(steps):
        gram = wide @ wide.mT
        wide = torch.baddbmm(wide, torch.baddbmm(gram, gram, gram, beta=b, alpha=c), wide, beta=a)
    return wide.mT if matrices.shape[1] > matrices.shape[2] else wide
