"""Checks of promises about weights, whatever the inputs: bounds that no rounding of inputs can break.

An eager formula that has the same flaw as a kernel makes twice its error a loose limit. These limits know no eager.
Weights are probed through values: unit vectors give the weights themselves, a one gives their sum.
"""

import torch
from torch import Tensor

from attention.conformance.inputs import HOSTILE, Inputs, hostile, run
from attention.conformance.verdict import ConformanceError, dtypes
from attention.core.call import CallSpec
from attention.core.inputs import prepare
from attention.core.mechanism import Bounds, Mechanism

KEYS, HEAD_DIM, VALUE_DIM = 24, 64, 8
SPREADS = (1.0, 3.0, 10.0, 30.0)
MOVES = (0.0, 3.0)
"""Offsets of learned parameters: their start, and far from it."""

ROUNDING = {torch.float64: 1e-12, torch.float32: 2.0**-16, torch.bfloat16: 2.0**-7, torch.float16: 2.0**-10}
"""Tolerances of a weight near one and of a sum of weights that are rounded one by one."""


def bounds(mechanism: Mechanism, kernel: str, device: torch.device | str) -> None:
    """Weights, their sums and outputs within what the mechanism states; rows that the formula leaves empty are dead."""
    for dtype in dtypes(mechanism, kernel, device):
        inputs = probes().to(dtype, device)
        for moved in MOVES:
            truth = run(inputs.to(torch.float64), mechanism, "dense", moved=moved)
            result = run(inputs, mechanism, kernel, moved=moved)
            place = f"{dtype}, parameters moved by {moved:g}".replace("torch.", "")
            check(mechanism.bounds, result["out"].double(), inputs.value.double(), ROUNDING[dtype], place)
            _check_dead(truth, result, ROUNDING[dtype], place)
            if mechanism.bounds.itself is not None:
                _check_own_weight(mechanism, inputs, result["out"], dtype, moved, place)


def probes() -> Inputs:
    """A batch of all hostile inputs, then queries that equal their keys, at several spreads and where half are zero."""
    shape = {
        "batch": 1,
        "queries": KEYS,
        "heads": 2,
        "key_heads": 1,
        "head_dim": HEAD_DIM,
        "value_dim": VALUE_DIM,
    }
    drawn = [hostile(name, **shape) for name in HOSTILE]
    for spread in (*SPREADS, 0.0):
        inputs = hostile("gaussian", **shape)
        key = (
            inputs.key.detach() * spread
            if spread
            else inputs.key.detach() * (torch.arange(KEYS) % 2)[:, None, None]
        )
        drawn.append(Inputs(key.expand_as(inputs.query), key, inputs.value, inputs.grad_out))
    query, key, value = (
        torch.cat([getattr(x, name).detach() for x in drawn]) for name in ("query", "key", "value")
    )
    unit = torch.eye(KEYS, dtype=value.dtype)[:, None].expand(len(drawn), KEYS, 1, KEYS)
    value = torch.cat([unit, torch.ones_like(unit[..., :1]), value], -1)
    generator = torch.Generator().manual_seed(1)
    grad_out = torch.randn(*query.shape[:3], value.shape[-1], generator=generator, dtype=value.dtype)
    return Inputs(query, key, value, grad_out)


def check(stated: Bounds, out: Tensor, value: Tensor, rounding: float, place: str) -> None:
    """Fail where weights, masses or mixed values are outside of what is stated.

    Args:
        out: [B, T, H, S + 1 + any], of values that begin with the unit vectors and a one.
        value: [B, S, 1, S + 1 + any].
        rounding: by how much of itself a bound may be exceeded.
    """
    if out.isnan().any():
        raise ConformanceError(f"{place}: not a number")
    keys = value.shape[1]
    weight, mass, mixed = out.split([keys, 1, out.shape[-1] - keys - 1], -1)
    if weight.transpose(1, 2).triu(1).any():
        raise ConformanceError(f"{place}: a hidden key has a weight")
    for what, found, (least, most) in (("a weight", weight, stated.weight), ("a row", mass, stated.mass)):
        lowest, highest = float(found.min()), float(found.max())
        if lowest < least - rounding or highest > most + rounding:
            raise ConformanceError(
                f"{place}: {what} of {lowest:.6g} to {highest:.6g}, stated {least:g} to {most:g}"
            )
    if stated.weight[0] < 0 or stated.mass[1] > 1:
        return
    shown = value[..., keys + 1 :]
    low, high = shown.cummin(1).values, shown.cummax(1).values
    if stated.mass[0] < 1:
        low, high = low.clamp(max=0), high.clamp(min=0)
    margin = rounding * shown.abs().amax()
    if (mixed < low - margin).any() or (mixed > high + margin).any():
        raise ConformanceError(f"{place}: an output outside of the values that its query sees")


def _check_dead(truth: dict[str, Tensor], result: dict[str, Tensor], rounding: float, place: str) -> None:
    """Rows without output and gradient by the formula have next to none, relative to the others of their sequence."""
    dead = (truth["out"] == 0).all(-1) & (truth["query"] == 0).all(-1)
    for name in ("out", "query"):
        found = result[name].double().abs().amax(-1) * dead
        if (found > rounding * truth[name].abs().amax((1, 2, 3), keepdim=True)[..., 0]).any():
            raise ConformanceError(
                f"{place}, {name}: {found.max():.3g} in a row that the formula leaves empty"
            )


def _check_own_weight(
    mechanism: Mechanism, inputs: Inputs, out: Tensor, dtype: torch.dtype, moved: float, place: str
) -> None:
    """The weight of a key that equals its query, but for rounding.

    One is rounded before it meets the other: of a score whose terms are of a size, that is size * unit^2 / 2. The terms
    are summed in float32.
    """
    own = slice(len(HOSTILE), None)
    query, key, value = (x[own].detach() for x in inputs.all[:3])
    params = {
        name: x.to(torch.promote_types(dtype, torch.float32)) + moved
        for name, x in mechanism.initial_values(query.shape[2], HEAD_DIM).items()
    }
    stated = mechanism.bounds.itself
    assert stated is not None
    scores = prepare(query, key, value, mechanism, CallSpec(params=params)).scores
    size = scores.scale * (scores.query.double().norm(dim=-1) * scores.key.double().norm(dim=-1))
    unit = torch.finfo(dtype).eps / 2
    sums = torch.finfo(torch.promote_types(dtype, torch.float32)).eps
    allowed = ROUNDING[dtype] + size * (0.5 * unit**2 + 4 * sums)
    weight = out[own][..., : inputs.key.shape[1]].diagonal(dim1=1, dim2=3).transpose(1, 2).double()
    off = ((weight - stated).abs() - allowed).amax((1, 2))
    if (off > 0).any():
        worst = weight[int(off.argmax())]
        raise ConformanceError(
            f"{place}: a key that equals its query weighs {worst.min():.4g} to {worst.max():.4g}, "
            f"stated {stated:g}"
        )
