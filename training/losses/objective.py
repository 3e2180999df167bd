"""A network with what is minimised on it."""

from types import ModuleType

import torch
from torch import Tensor, nn

from attention import INFERENCE, Phase
from models import GPT, AttentionCall, ModelError
from training.losses import INSTEAD, KERNELS, PENALTIES, Loss, Options
from training.losses.chunked import token_losses


class Objective(nn.Module):
    """A network with its loss: cross-entropy, and z-loss and penalties where they are asked for.

        Σ_i lse_i − z_i,y + z_loss lse_i²,     lse_i = log Σ_v e^{z_iv}

    or what `train.loss` names in place of it. A penalty is the mean over the layers.
    """

    def __init__(self, network: GPT, options: Options | None = None) -> None:
        """Wrap a network, whose parameters are those of the objective.

        Raises:
            ModelError: the loss or the loss kernel asked for cannot serve.
            AttentionError: an entropy penalty on a layer that is not softmax.
        """
        super().__init__()
        self.options = options or Options()
        found = [module.penalty(network, self.options) for module in PENALTIES.values()]
        self.penalties = [penalty for penalty in found if penalty is not None]
        self.network = network
        name = self.options.loss
        if name in INSTEAD and (reason := INSTEAD[name].refuses(network, self.options.z_loss)):
            raise ModelError(f"train.loss={name} cannot serve: {reason}")
        name = self.options.loss_kernel
        if name != "auto" and (reason := KERNELS[name].refuses(network, self.options.z_loss)):
            raise ModelError(f"train.loss_kernel={name} cannot serve: {reason}; use chunked")

    def forward(
        self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None, phase: Phase = INFERENCE
    ) -> Loss:
        """The loss of targets [B, T] after tokens [B, T]; other arguments as for `GPT`."""
        layers: list[list[Tensor]] = [[] for _ in self.penalties]

        def observe(call: AttentionCall) -> None:
            for penalty, found in zip(self.penalties, layers, strict=True):
                found.append(penalty.of_layer(call, targets))

        hidden = self.network.hidden(
            tokens, documents=documents, phase=phase, observe=observe if self.penalties else None
        ).flatten(0, 1)
        loss = self._of_tokens(hidden, targets.flatten())
        for penalty, found in zip(self.penalties, layers, strict=True):
            loss = Loss(loss.total + penalty.weight * torch.stack(found).mean(), loss.nats)
        return loss

    def _of_tokens(self, hidden: Tensor, targets: Tensor) -> Loss:
        """What the head's predictions of targets [N] after hidden [N, d] cost."""
        head, dtype = self.network.head_weight, _product_dtype(hidden)
        found: Loss
        if self.options.loss in INSTEAD:
            found = INSTEAD[self.options.loss].total(hidden, head, targets, self.options, dtype)
            return found
        kernel = self._kernel(hidden.device.type, dtype)
        found = kernel.cross_entropy(
            hidden,
            head,
            targets,
            z_loss=self.options.z_loss,
            readout=self.network.readout,
            dtype=dtype,
        )
        return found

    def _kernel(self, device: str, dtype: torch.dtype) -> ModuleType:
        name = self.options.loss_kernel
        if name != "auto":
            if reason := KERNELS[name].unfit(device, dtype):
                raise ModelError(f"train.loss_kernel={name} {reason}; use chunked")
            return KERNELS[name]
        return next(
            kernel
            for kernel in KERNELS.values()
            if kernel.unfit(device, dtype) is None
            and kernel.refuses(self.network, self.options.z_loss) is None
        )


def held_out_losses(network: GPT, tokens: Tensor, targets: Tensor, documents: Tensor) -> Tensor:
    """The cross-entropy of each target [B, T] in nats as training computes it, without gradient; 0 where ignored."""
    hidden = network.hidden(tokens, documents=documents).flatten(0, 1)
    return token_losses(
        hidden,
        network.head_weight,
        targets.flatten(),
        readout=network.readout,
        dtype=_product_dtype(hidden),
    ).view_as(targets)


def _product_dtype(hidden: Tensor) -> torch.dtype:
    """What the head's products are computed in."""
    device = hidden.device.type
    return torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
