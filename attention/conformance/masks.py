"""Checks of masks: windows, documents, padding, decoding, and nobody sees the future."""

from itertools import pairwise
from typing import Any

import torch
from torch import Tensor

from attention.conformance.inputs import Inputs, ask, make, run, takes_windows
from attention.conformance.verdict import (
    CANCELLED,
    SLACK,
    ConformanceError,
    compare,
    dtypes,
    each,
    equal,
    judge,
)
from attention.core.mechanism import Mechanism
from attention.functional import attend

LEFT = (-1,) * 9 + (0,) * 33 + (1,) + (2,) * 30
RIGHT = (4,) * 5 + (7,) * 47 + (4,) * 10 + (-1,) * 11
SMALL = {"heads": 2, "key_heads": 1, "head_dim": 16}


def window(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Windows narrower and wider than a block, one that hides nothing, and one over a cache of keys."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(case: tuple[int, int, int]) -> None:
        width, queries, keys = case
        inputs = make(2, queries, keys, **SMALL).to(dtype, device)
        compare(inputs, mechanism, kernel, dtype, f"window {width} of {keys} keys", window=width)

    each(((5, 75, 75), (40, 150, 150), (99, 75, 75), (20, 33, 90)), attempt)


def documents(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Packed documents with padding on the left and on the right, against each document alone."""
    dtype = dtypes(mechanism, kernel, device)[0]
    inputs = make(2, len(LEFT), **SMALL).to(dtype, device)
    packed = torch.tensor((LEFT, RIGHT), device=device)

    def attempt(masks: dict[str, Any]) -> None:
        result = run(inputs, mechanism, kernel, documents=packed, **masks)
        truth, eager = (_alone(inputs.to(kind), mechanism, packed, masks) for kind in (torch.float64, dtype))
        name = ", ".join(f"{key} {value}" for key, value in masks.items()) or "causal"
        judge(result, truth, eager, f"packed documents, {name}", SLACK[dtype])

    masks: list[dict[str, Any]] = [{}, {"causal": False}]
    each([*masks, {"window": 7}] if takes_windows(mechanism) else masks, attempt)


def _alone(inputs: Inputs, mechanism: Mechanism, packed: Tensor, masks: dict[str, Any]) -> dict[str, Tensor]:
    """The formula on one document at a time, put together; zero at padding."""
    whole = {"out": inputs.grad_out, "query": inputs.query, "key": inputs.key, "value": inputs.value}
    expected = {name: torch.zeros_like(x, requires_grad=False) for name, x in whole.items()}
    for sequence, ids in enumerate(packed.tolist()):
        edges = [0, *(i for i in range(1, len(ids)) if ids[i] != ids[i - 1]), len(ids)]
        for start, stop in pairwise(edges):
            if ids[start] < 0:
                continue
            place = (slice(sequence, sequence + 1), slice(start, stop))
            piece = Inputs(*(x.detach()[place] for x in inputs.all)).to(inputs.query.dtype)
            for name, tensor in run(piece, mechanism, "dense", **masks).items():
                if name in whole:
                    expected[name][place] = tensor
                else:
                    expected[name] = expected.get(name, 0) + tensor
    return expected


def not_causal(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Every query sees every key, or those within a window on both sides."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(case: tuple[int, int, int | None]) -> None:
        queries, keys, width = case
        inputs = make(2, queries, keys, **SMALL).to(dtype, device)
        name = f"{queries} queries, {keys} keys, window {width}, not causal"
        compare(inputs, mechanism, kernel, dtype, name, causal=False, window=width)

    cases: list[tuple[int, int, int | None]] = [(75, 75, None), (20, 70, None), (75, 75, 6)]
    each(cases if takes_windows(mechanism) else cases[:2], attempt)


def one_key(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Rows that see a single key: a sequence of one, a window of one, documents of one."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(case: tuple[int, dict[str, Any]]) -> None:
        length, masks = case
        inputs = make(2, length, **SMALL).to(dtype, device)
        compare(inputs, mechanism, kernel, dtype, "one visible key", floor=CANCELLED, **masks)

    ids = torch.arange(40, device=device).expand(2, -1)
    calls: list[tuple[int, dict[str, Any]]] = [
        (1, {}),
        (1, {"causal": False}),
        (40, {"documents": ids}),
        (40, {"window": 1}),
    ]
    each(calls if takes_windows(mechanism) else calls[:-1], attempt)


def empty_rows(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Padding gives exactly zero and gets exactly zero gradient, whatever stands there."""
    dtype = dtypes(mechanism, kernel, device)[0]

    def attempt(ids: Tensor) -> None:
        inputs = make(2, ids.shape[1], **SMALL).to(dtype, device)
        padding = ids < 0
        before = run(inputs, mechanism, kernel, documents=ids)
        for name in ("out", "query", "key", "value"):
            if before[name][padding].any():
                raise ConformanceError(f"padding, {name}: not zero")
        for tensor in inputs.all:
            tensor.data[padding] = 1e4
        equal(before, run(inputs, mechanism, kernel, documents=ids), "large numbers at padding")

    nothing = torch.full((2, 40), -1, device=device)
    each((nothing, torch.tensor((LEFT, RIGHT), device=device)), attempt)


def decode(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """A prefill in chunks and single steps over a cache give what the whole gives, with and without a window."""
    dtype = dtypes(mechanism, kernel, device)[0]
    inputs = make(2, 75, **SMALL).to(dtype, device)

    def attempt(width: int | None) -> None:
        pieces, start = [], 0
        for length in (40, 1, 31, 1, 1, 1):
            stop, oldest = start + length, 0 if width is None else max(0, start - width + 1)
            cached = Inputs(
                inputs.query[:, start:stop],
                inputs.key[:, oldest:stop],
                inputs.value[:, oldest:stop],
                inputs.grad_out,
            )
            with torch.no_grad():
                ask(cached, mechanism, kernel, window=width)
                pieces.append(
                    attend(cached.query, cached.key, cached.value, mechanism, window=width, kernel=kernel)
                )
            start = stop
        truth, eager = (
            run(inputs.to(kind), mechanism, "dense", window=width)["out"] for kind in (torch.float64, dtype)
        )
        judge(
            {"out": torch.cat(pieces, 1)},
            {"out": truth},
            {"out": eager},
            f"decoding, window {width}",
            SLACK[dtype],
        )

    each((mechanism.window, 6) if takes_windows(mechanism) else (None,), attempt)


def causality(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Check that what comes later changes neither outputs nor gradients of what came before, bit for bit."""
    dtype = dtypes(mechanism, kernel, device)[0]
    inputs = make(2, 90, **SMALL).to(dtype, device)
    cut = 53
    inputs.grad_out[:, cut:] = 0
    before = run(inputs, mechanism, kernel)
    for tensor in inputs.all[:3]:
        tensor.data[:, cut:] += 100
    after = run(inputs, mechanism, kernel)
    equal(_past(before, cut), _past(after, cut), "after a change of the future")
    if torch.equal(before["out"][:, cut:], after["out"][:, cut:]):
        raise ConformanceError("a change of values leaves their own outputs as they were")
    for name in ("query", "key", "value"):
        if before[name][:, cut:].any():
            raise ConformanceError(f"{name}: gradient from outputs that came before")


def _past(result: dict[str, Tensor], cut: int) -> dict[str, Tensor]:
    return {name: result[name][:, :cut] for name in ("out", "query", "key", "value")}
