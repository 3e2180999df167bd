"""The parity table: logits of `zoo:auto` beside those of each family's own eager code, by mask, cache and dtype."""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import torch
import transformers
from torch import Tensor

from attention.transformers.families import FAMILIES, tiny
from attention.transformers.names import AUTO
from attention.transformers.seams import register

BATCH, LENGTH, STEPS = 3, 29, 4
"""Sequences, their length, and how many of its tokens a cache is given one at a time."""

MASKS = ("causal", "left padding", "right padding", "packed")
CACHES = ("none", "dynamic", "static")
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}
TOLERANCE = 1e-5
"""Of float32 logits of order one: the largest difference from eager."""

SLACK = 2.0
"""Of half types: the error may be that many times eager's own, both against eager in float32."""

FLOOR = 0.05
"""Of half types: errors below it are rounding, whoever's is larger; logits are of order one."""


@dataclass(frozen=True)
class Cell:
    """One family under one mask, cache and dtype.

    Attributes:
        difference: of float32, the largest difference of a logit from eager; of half types, the largest error against
            eager in float32; None where eager itself cannot run, for which `reason` stands.
        eager: the largest error of eager itself in this dtype.
    """

    family: str
    mask: str
    cache: str
    dtype: str
    difference: float | None
    eager: float = 0.0
    reason: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is equal to eager, as far as the dtype tells."""
        if self.difference is None:
            return True
        if self.dtype == "float32":
            return self.difference <= TOLERANCE
        return self.difference <= max(FLOOR, SLACK * self.eager)


def cells(
    families: Iterable[str] = tuple(FAMILIES),
    masks: Iterable[str] = MASKS,
    caches: Iterable[str] = CACHES,
    dtypes: Iterable[str] = tuple(DTYPES),
) -> Iterator[Cell]:
    """Run each family with its own eager code and with `zoo:auto`, and compare what real tokens got."""
    register()
    masks, caches, dtypes = tuple(masks), tuple(caches), tuple(dtypes)
    for family in families:
        exact: dict[tuple[str, str], Tensor | str] = {}
        for dtype in ("float32", *(name for name in dtypes if name != "float32")):
            model = tiny(family).to(DTYPES[dtype])
            places = [(mask, cache) for mask in masks for cache in caches if _meet(mask, cache)]
            own = {place: _attempt(model, *place) for place in places}
            exact = exact or own
            if dtype not in dtypes:
                continue
            model.set_attn_implementation(AUTO)
            for mask, cache in places:
                truth, eager = exact[mask, cache], own[mask, cache]
                if isinstance(truth, str) or isinstance(eager, str):
                    reason = truth if isinstance(truth, str) else str(eager)
                    yield Cell(family, mask, cache, dtype, None, reason=reason)
                    continue
                found = logits(model, mask, cache)
                yield Cell(family, mask, cache, dtype, _distance(found, truth), _distance(eager, truth))


def logits(model: transformers.PreTrainedModel, mask: str, cache: str) -> Tensor:
    """Logits of the real tokens of a text [tokens, V], in float32, under a mask and with a cache."""
    tokens = torch.randint(3, 90, (BATCH, LENGTH), generator=torch.Generator().manual_seed(1))
    real = torch.ones_like(tokens)
    options: dict[str, Tensor] = {}
    if mask == "left padding":
        real[0, :9], real[1, :1] = 0, 0
    elif mask == "right padding":
        real[0, -9:], real[1, -1:] = 0, 0
    if "padding" in mask:
        options["attention_mask"] = real
    if mask == "packed":
        lengths = (11, 1, LENGTH - 12)
        options["position_ids"] = torch.cat([torch.arange(length) for length in lengths]).expand(BATCH, -1)
    with torch.no_grad():
        if cache == "none":
            out = model(tokens, use_cache=False, **options).logits
        else:
            out = torch.cat(list(_stepwise(model, tokens, cache, options)), 1)
    return out[real.bool()].float()


def page() -> str:
    """The table in Markdown."""
    found = list(cells())
    head = [(mask, cache) for mask in MASKS for cache in CACHES if _meet(mask, cache)]
    titles = [mask if cache == "none" else f"{mask}, {cache} cache" for mask, cache in head]
    lines = [INTRODUCTION.format(count=len(FAMILIES), version=transformers.__version__)]
    for dtype in DTYPES:
        lines += [f"\n## {dtype}\n", f"| family | {' | '.join(titles)} |", f"| --- |{' --- |' * len(head)}"]
        for family in FAMILIES:
            row = {(x.mask, x.cache): x for x in found if x.family == family and x.dtype == dtype}
            lines.append(f"| {family} | {' | '.join(_shown(row[place]) for place in head)} |")
    reasons = {f"{x.family}, {x.cache} cache": x.reason for x in found if x.reason}
    if reasons:
        lines.append("\nNot run by eager itself:\n")
        lines += [f"- {place}: {reason}" for place, reason in reasons.items()]
    return "\n".join(lines) + "\n"


INTRODUCTION = f"""\
# Hugging Face models on these kernels: parity with eager

By `python -m attention.transformers --write FILE`, with transformers {{version}}.

{{count}} families, tiny random models made from their configs; {BATCH} texts of {LENGTH} tokens, the last {STEPS} one
by one where there is a cache; windows are shorter than the texts. `zoo:auto` beside each family's own eager code, real
tokens alone.

In float32 a cell is the largest difference of a logit. Logits are of order one, and the bar is {TOLERANCE:g}. In
bfloat16 it is the largest error against eager in float32, and behind the stroke eager's own; where experts are chosen,
rounding may choose others. What does not hold is in bold. A dash: eager itself cannot run it."""


def _meet(mask: str, cache: str) -> bool:
    """Packed sequences are told by their positions, of which transformers makes a mask only without a cache."""
    return cache == "none" or mask != "packed"


def _attempt(model: transformers.PreTrainedModel, mask: str, cache: str) -> Tensor | str:
    """Logits, or why this model's own code cannot run."""
    try:
        return logits(model, mask, cache)
    except Exception as error:  # whatever a model's own code raises
        return f"{type(error).__name__}: {' '.join(str(error).split())[:120]}"


def _stepwise(
    model: transformers.PreTrainedModel, tokens: Tensor, cache: str, options: dict[str, Tensor]
) -> Iterator[Tensor]:
    """Logits of a text in one part, then token by token."""
    past: transformers.Cache | None = None
    if cache == "static":
        past = transformers.StaticCache(config=model.config, max_cache_len=LENGTH + 5)
    parts = [(0, LENGTH - STEPS), *((at, at + 1) for at in range(LENGTH - STEPS, LENGTH))]
    real = options.get("attention_mask")
    for start, stop in parts:
        positions = torch.arange(start, stop).expand(BATCH, -1)
        out = model(
            tokens[:, start:stop],
            past_key_values=past,
            attention_mask=None if real is None else real[:, :stop],
            position_ids=positions,
            use_cache=True,
        )
        past = out.past_key_values
        yield out.logits


def _distance(found: Tensor, truth: Tensor) -> float:
    return (found - truth).abs().max().item()


def _shown(cell: Cell) -> str:
    if cell.difference is None:
        return "–"
    text = (
        f"{cell.difference:.0e}" if cell.dtype == "float32" else f"{cell.difference:.2f} / {cell.eager:.2f}"
    )
    return text if cell.holds else f"**{text}**"
