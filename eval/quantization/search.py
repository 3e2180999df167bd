"""Bits per matrix under a budget, by evolution (Sieberling et al., "EvoPress", arXiv 2410.14649).

A (1 + lambda) search. The first parent has the same bits everywhere; every generation draws lambda offspring of it. A
mutation raises some matrices by one bit and lowers as many of the same size, so the budget holds exactly; how many is
the smaller of two draws from 1 to 3. Offspring are ranked by KL(full precision || quantized) of the next-token
predictions, in stages: all of them on little text, the best quarter on more, their best quarter on all. The parent
gives way only to what is better on all of it, so what is found is never worse there than the same bits everywhere.
"""

import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional

from eval.quantization.weights import Quantized, preserved, weight_matrices
from eval.subjects.base import Subject
from eval.terminal import progress
from eval.windows import Windows
from models import ModelError

Widths = dict[str, int]
"""Bits by the name of the matrix."""

STAGES = (1 / 16, 1 / 4)
"""Share of the text on which all offspring are ranked, then the best quarter of them; their best quarter sees all."""

MOST_PREDICTIONS = 2**28
"""Log probabilities of the full-precision model that are kept, 1 GiB; of more text, the first windows are used."""


@dataclass(frozen=True)
class Found:
    """The end of a search.

    Attributes:
        widths: bits of each matrix.
        divergence: of the parent on all of the text, KL in nats per token: the same bits everywhere first, then after
            every generation.
    """

    widths: Widths
    divergence: list[float]


def search(
    subject: Subject,
    windows: Windows,
    database: Mapping[int, Quantized],
    bits: int,
    *,
    generations: int,
    offspring: int,
    seed: int,
) -> Found:
    """Search the widths of every matrix whose mean is `bits`.

    The network is left as it was. The same arguments give the same result.

    Args:
        subject: whose blocks.
        windows: text to compare predictions on.
        database: every matrix quantized at every width that may be chosen.
        bits: the budget, per weight; one of the widths.
        generations: how often offspring are drawn.
        offspring: lambda.
        seed: of mutations and of the text of early stages.

    Raises:
        ModelError: the widths are not consecutive, `bits` is not between the first and the last, or no two matrices
            have the same size.
    """
    matrices = weight_matrices(subject.blocks)
    levels = sorted(database)
    if levels != list(range(levels[0], levels[-1] + 1)) or not levels[0] < bits < levels[-1]:
        raise ModelError(
            f"a search for a mean of {bits} bits needs consecutive widths around it, got {levels}"
        )
    draw = random.Random(seed)
    parent = dict.fromkeys(matrices, bits)
    groups = _equal_sizes(matrices)
    if not groups:
        raise ModelError(f"{subject.name} has no two matrices of one size that could exchange bits")
    with preserved(matrices):
        judge = _Judge(subject, windows, matrices, database)
        everything = list(range(judge.windows))
        history = [judge.divergence(parent, everything)]
        for _ in progress(range(generations), f"search {subject.name}"):
            candidates = [mutate(parent, groups, levels, draw) for _ in range(offspring)]
            for share in STAGES:
                text = draw.sample(everything, max(1, round(share * len(everything))))
                candidates.sort(key=partial(judge.divergence, text=text))
                candidates = candidates[: max(1, len(candidates) // 4)]
            best = history[-1]
            for candidate in candidates:
                score = judge.divergence(candidate, everything)
                if score < best:
                    parent, best = candidate, score
            history.append(best)
    return Found(parent, history)


def mutate(
    parent: Widths, groups: Sequence[Sequence[str]], levels: Sequence[int], draw: random.Random
) -> Widths:
    """A copy with some matrices one level up and as many of the same size one level down."""
    widths = dict(parent)
    for _ in range(min(draw.randint(1, 3), draw.randint(1, 3))):
        group = draw.choices(groups, [len(names) for names in groups])[0]
        raised = draw.choice([name for name in group if widths[name] < levels[-1]] or [""])
        lowered = draw.choice([name for name in group if widths[name] > levels[0] and name != raised] or [""])
        if raised and lowered:
            widths[raised] += 1
            widths[lowered] -= 1
    return widths


class _Judge:
    """A judge of how far predictions with given widths are from those in full precision."""

    def __init__(
        self,
        subject: Subject,
        windows: Windows,
        matrices: Mapping[str, Tensor],
        database: Mapping[int, Quantized],
    ) -> None:
        self._subject = subject
        self._matrices = matrices
        self._database = database
        per_window = windows.tokens.shape[1] * subject.vocab_size
        self._tokens = windows.tokens[: max(1, MOST_PREDICTIONS // per_window)]
        self._in_place: Widths = {}
        self._batch = subject.batch(windows.tokens.shape[1])
        logits = [subject.logits(batch) for batch in self._tokens.split(self._batch)]
        self._full = functional.log_softmax(torch.cat(logits), -1)

    @property
    def windows(self) -> int:
        """The number of windows to judge by."""
        return len(self._tokens)

    def divergence(self, widths: Widths, text: Sequence[int]) -> float:
        """KL(full precision || quantized) in nats per token on the windows numbered in `text`."""
        for name, bits in widths.items():
            if self._in_place.get(name) != bits:
                self._matrices[name].copy_(self._database[bits][name].weight())
        self._in_place = dict(widths)
        total = 0.0
        for part in torch.as_tensor(text).split(self._batch):
            quantized = functional.log_softmax(self._subject.logits(self._tokens[part]), -1)
            full = self._full[part.to(quantized.device)]
            total += float(functional.kl_div(quantized, full, reduction="sum", log_target=True))
        return total / (len(text) * self._tokens.shape[1])


def _equal_sizes(matrices: Mapping[str, Tensor]) -> list[list[str]]:
    """Names by size, of the sizes that several matrices share."""
    groups: dict[int, list[str]] = defaultdict(list)
    for name, matrix in matrices.items():
        groups[matrix.numel()].append(name)
    return [names for names in groups.values() if len(names) > 1]
