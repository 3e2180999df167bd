"""Entropy regularisation: heads that look everywhere and heads that look at one key are both held back."""

from dataclasses import dataclass

import torch
from torch import Tensor

from attention import entropy as row_entropy
from attention.core.masks import visibility
from common.ranges import ranged
from common.targets import IGNORED
from models import GPT, AttentionCall
from training.losses.base import Penalty


@dataclass
class Options:
    """Keys of `train`.

    Attributes:
        entropy_penalty: weight of the entropy regularisation of softmax layers, per target token; 0 for none.
        entropy_share: of the largest entropy that a row can have, what every head aims at.
        entropy_margin: deviations up to this share of the largest entropy cost nothing.
    """

    entropy_penalty: float = ranged(0.0, 0.0, 1e6)
    entropy_share: float = ranged(0.5, 0.0, 1.0)
    entropy_margin: float = ranged(0.2, 0.0, 1.0)


def penalty(network: GPT, options: Options) -> Penalty | None:
    """The penalty as the options say; None where it is not asked for.

    Raises:
        AttentionError: a layer that is not softmax.
    """
    if not options.entropy_penalty:
        return None
    example = torch.zeros(1, 1, 2, 2)
    for layer in network.plan.layers:
        row_entropy(example, example, layer.mechanism)  # refuses what has none

    def of_layer(call: AttentionCall, targets: Tensor) -> Tensor:
        spec = call.spec
        seen = visibility(
            call.query.shape[1],
            call.key.shape[1],
            window=spec.window,
            documents=spec.documents,
            device=call.query.device,
        )
        rows = row_entropy(call.query, call.key, call.mechanism, **spec.options)
        return entropy_penalty(
            rows,
            seen.count.expand(targets.shape),
            targets,
            share=options.entropy_share,
            margin=options.entropy_margin,
        )

    return Penalty(options.entropy_penalty, of_layer)


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
