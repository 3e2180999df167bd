"""Cross-entropy by the package cut-cross-entropy, for CUDA in half precision."""

from importlib.util import find_spec

import torch
from torch import Tensor

from common.targets import IGNORED
from models import GPT
from models.readout import Readout
from training.losses.base import Loss

PREFERENCE = 1


def refuses(network: GPT, z_loss: float) -> str | None:
    """Why it cannot serve a model here, None where it can."""
    if find_spec("cut_cross_entropy") is None:
        return "it is not installed: pip install -e '.[cce]'"
    if z_loss:
        return "it has no z-loss"
    return None if network.plan.prediction == "softmax" else "it computes softmax only"


def unfit(device: str, dtype: torch.dtype) -> str | None:
    """Why it does not run on a device in a dtype, None where it does."""
    if device == "cuda" and dtype in (torch.float16, torch.bfloat16):
        return None
    return f"runs on CUDA in half precision, not on {device} in {dtype}"


def cross_entropy(
    hidden: Tensor, head: Tensor, targets: Tensor, *, z_loss: float, readout: Readout, dtype: torch.dtype
) -> Loss:
    """As `chunked.cross_entropy`, without z-loss and StableMax."""
    return cut_cross_entropy(hidden.to(dtype), head.to(dtype), targets, readout.softcap)


def cut_cross_entropy(hidden: Tensor, head: Tensor, targets: Tensor, softcap: float | None = None) -> Loss:
    """The same by the package cut-cross-entropy (Wijmans et al., arXiv 2411.09009), its gradients unfiltered.

    Never run by this project: it needs a GPU. Only the arguments of its call are tested.
    """
    from cut_cross_entropy import linear_cross_entropy

    nats = linear_cross_entropy(
        hidden, head, targets, ignore_index=IGNORED, softcap=softcap, reduction="sum", filter_eps=None
    ).float()
    return Loss(nats, nats.detach())
