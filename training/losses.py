"""What training minimises, summed over the target tokens of a batch.

The logits of a batch are never held at once: they are made for some tokens at a time, and from them not only the loss
but its gradient, before the next tokens take their place (as in Hsu et al., arXiv 2410.10989). The gradient of a sum is
known up to one factor, so nothing is computed twice and the backward pass of the head is a multiplication.
"""

from importlib.util import find_spec
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from attention import INFERENCE, Phase
from attention import entropy as row_entropy
from attention.core.masks import visibility
from common.targets import IGNORED
from models import GPT, AttentionCall, ModelError
from models.loss import log_stablemax

_PART = {"cpu": 2**21, "cuda": 2**26}
"""Logits held at once, by device: on a CPU what a cache holds, on a GPU what keeps it busy."""

_FEWEST_ROWS = 256
"""Tokens per part at least: fewer would read the head more often than they use it."""


class Loss(NamedTuple):
    """Sums over the target tokens of a batch, scalars.

    Attributes:
        total: what is minimised.
        nats: the cross-entropy in it; carries no gradient.
    """

    total: Tensor
    nats: Tensor


class EntropyPenalty(NamedTuple):
    """Weight, and the arguments of `entropy_penalty`."""

    weight: float
    share: float
    margin: float


class Objective(nn.Module):
    """A network with what is minimised on it: cross-entropy, and z-loss and entropy penalty where they are asked for.

        Σ_i lse_i − z_i,y + z_loss lse_i²,     lse_i = log Σ_v e^{z_iv}

    The z-loss keeps the logits' normaliser near 1 (PaLM, arXiv 2204.02311, with weight 1e-4). The entropy penalty is
    the mean of `entropy_penalty` over the layers.
    """

    def __init__(
        self,
        network: GPT,
        *,
        z_loss: float = 0.0,
        kernel: str = "auto",
        entropy: EntropyPenalty | None = None,
    ) -> None:
        """Wrap a network.

        Args:
            network: its parameters are those of the objective.
            z_loss: weight of the z-loss.
            entropy: weight, aim and margin of the entropy penalty.
            kernel: "chunked", "cce" (the package cut-cross-entropy), or "auto": cce where it can serve.

        Raises:
            ModelError: cce was asked for and cannot serve.
            AttentionError: an entropy penalty on a layer that is not softmax.
        """
        super().__init__()
        self.entropy = entropy
        if entropy is not None:
            example = torch.zeros(1, 1, 2, 2)
            for layer in network.plan.layers:
                row_entropy(example, example, layer.mechanism)  # refuses what has none
        self.network = network
        self.z_loss = z_loss
        self.kernel = kernel
        if kernel == "cce" and (reason := self._cce_refuses()):
            raise ModelError(f"train.loss_kernel=cce cannot serve: {reason}; use chunked")

    def forward(
        self, tokens: Tensor, targets: Tensor, documents: Tensor | None = None, phase: Phase = INFERENCE
    ) -> Loss:
        """The loss of targets [B, T] after tokens [B, T]; other arguments as for `GPT`."""
        penalties: list[Tensor] = []
        observe = (
            None if self.entropy is None else lambda call: penalties.append(self._penalty(call, targets))
        )
        hidden = self.network.hidden(tokens, documents=documents, phase=phase, observe=observe).flatten(0, 1)
        head, device = self.network.head_weight, hidden.device.type
        dtype = torch.get_autocast_dtype(device) if torch.is_autocast_enabled(device) else hidden.dtype
        if self._uses_cce(device, dtype):
            return cut_cross_entropy(hidden.to(dtype), head.to(dtype), targets.flatten())
        stablemax = self.network.plan.prediction == "stablemax"
        loss = chunked_cross_entropy(
            hidden, head, targets.flatten(), z_loss=self.z_loss, stablemax=stablemax, dtype=dtype
        )
        if self.entropy is None:
            return loss
        return Loss(loss.total + self.entropy.weight * torch.stack(penalties).mean(), loss.nats)

    def _penalty(self, call: AttentionCall, targets: Tensor) -> Tensor:
        """The entropy penalty of one layer."""
        assert self.entropy is not None
        _, share, margin = self.entropy
        query, documents = call.query, call.arguments["documents"]
        seen = visibility(
            query.shape[1],
            call.key.shape[1],
            window=call.arguments["window"],
            documents=documents,
            device=query.device,
        )
        rows = row_entropy(query, call.key, call.mechanism, **call.arguments)
        return entropy_penalty(rows, seen.count.expand(targets.shape), targets, share=share, margin=margin)

    def _uses_cce(self, device: str, dtype: torch.dtype) -> bool:
        if self.kernel == "chunked":
            return False
        serves = device == "cuda" and dtype in (torch.float16, torch.bfloat16)
        if self.kernel == "cce" and not serves:
            raise ModelError(
                f"train.loss_kernel=cce runs on CUDA in half precision, not on {device} in {dtype}; use chunked"
            )
        return serves and self._cce_refuses() is None

    def _cce_refuses(self) -> str | None:
        if find_spec("cut_cross_entropy") is None:
            return "it is not installed: pip install -e '.[cce]'"
        if self.z_loss:
            return "it has no z-loss"
        return None if self.network.plan.prediction == "softmax" else "it computes softmax only"


def chunked_cross_entropy(
    hidden: Tensor,
    head: Tensor,
    targets: Tensor,
    *,
    z_loss: float = 0.0,
    weights: Tensor | None = None,
    stablemax: bool = False,
    dtype: torch.dtype | None = None,
) -> Loss:
    """Weighted sum of losses of targets [N] under logits hidden [N, d] @ head [V, d]ᵀ, which are never held at once.

    Args:
        hidden, head: of any floating dtypes; their gradients are made with the loss.
        targets: int64, -100 where a token carries no loss.
        z_loss: weight of the squared log of the normaliser.
        weights: factor of each token's loss, [N], no gradient; None: 1.
        stablemax: see `models.loss.log_stablemax`.
        dtype: of both products with the head; None: that of `hidden`. All else is in float32 at least.
    """
    if weights is None:
        weights = torch.ones_like(targets, dtype=torch.float32)
    weights = weights.where(targets != IGNORED, 0)
    part = max(_FEWEST_ROWS, _PART.get(hidden.device.type, 2**26) // len(head))
    return Loss(*_Chunked.apply(hidden, head, targets.clamp(min=0), weights, z_loss, stablemax, dtype, part))


class _Chunked(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden: Tensor,
        head: Tensor,
        targets: Tensor,
        weights: Tensor,
        z_loss: float,
        stablemax: bool,
        dtype: torch.dtype | None,
        part: int,
    ) -> tuple[Tensor, Tensor]:
        wide = torch.promote_types(hidden.dtype, torch.float32)
        total, nats = hidden.new_zeros((), dtype=wide), hidden.new_zeros((), dtype=wide)
        grad_hidden, grad_head = torch.empty_like(hidden), torch.zeros_like(head, dtype=wide)
        narrow = head.to(dtype or hidden.dtype)
        with torch.autocast(hidden.device.type, enabled=False):
            for start in range(0, len(hidden), part):
                rows = slice(start, start + part)
                states, wanted, weight = (
                    hidden[rows].to(narrow.dtype),
                    targets[rows, None],
                    weights[rows, None],
                )
                linear = (states @ narrow.T).to(wide)
                logits = log_stablemax(linear) if stablemax else linear
                correct, largest = logits.gather(-1, wanted), logits.amax(-1, keepdim=True)
                power = logits.sub_(largest).exp_()
                mass = power.sum(-1, keepdim=True)
                normaliser = largest + mass.log()
                surprise = weight * (normaliser - correct)
                nats += surprise.sum()
                total += (surprise + z_loss * weight * normaliser.square()).sum()
                # d/dz: weight (p − onehot) + 2 z_loss weight lse p
                gradient = power.mul_(weight * (1 + 2 * z_loss * normaliser) / mass)
                gradient.scatter_add_(-1, wanted, -weight.to(wide))
                if stablemax:
                    gradient /= 1 + linear.abs()
                narrow_gradient = gradient.to(narrow.dtype)
                grad_hidden[rows] = narrow_gradient @ narrow
                grad_head += narrow_gradient.T @ states
        ctx.save_for_backward(grad_hidden, grad_head)
        ctx.head_dtype = head.dtype
        ctx.mark_non_differentiable(nats)
        return total, nats

    @staticmethod
    def backward(ctx: Any, factor: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        grad_hidden, grad_head = ctx.saved_tensors
        grad_head = (grad_head * factor).to(ctx.head_dtype)
        return grad_hidden * factor.to(grad_hidden.dtype), grad_head, None, None, None, None, None, None


def cut_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor) -> Loss:
    """The same by the package cut-cross-entropy (Wijmans et al., arXiv 2411.09009), its gradients unfiltered.

    Never run by this project: it needs a GPU. Only the arguments of its call are tested.
    """
    from cut_cross_entropy import linear_cross_entropy

    nats = linear_cross_entropy(
        hidden, head, targets, ignore_index=IGNORED, reduction="sum", filter_eps=None
    ).float()
    return Loss(nats, nats.detach())


def entropy_penalty(
    entropy: Tensor, visible: Tensor, targets: Tensor, *, share: Tensor | float, margin: float
) -> Tensor:
    """Entropy regularisation of one layer (AERO, arXiv 2410.13060), summed over target tokens as the losses are.

        Σ_i mean_h d_ih² [|d_ih| > margin ln n_i],     d_ih = H_ih − share_h ln n_i

    H is the entropy of row i of head h. The published code sums over all rows, so that its weight depends on the batch,
    and takes ln T for every row, which row i cannot reach; here n_i is the number of keys in its sight. A row that sees
    one key has nothing to choose and costs nothing.

    Args:
        entropy: [B, T, H] in nats, of rows divided by their mass.
        visible: n_i, [B, T].
        targets: int64 [B, T], -100 where a token carries no loss.
        share: of the largest entropy to aim at: one for all, or one per head [H], which may be learned.
        margin: deviations up to this share of the largest entropy cost nothing; 0.2 in the paper's code.
    """
    largest = visible.clamp(min=1).to(entropy.dtype).log()[..., None]
    deviation = entropy - share * largest
    outside = deviation.abs() > margin * largest
    counted = (targets != IGNORED) & (visible > 1)
    return (deviation.square() * outside).mean(-1)[counted].sum()
