"""Claims: what a study expects, written before it is run, and the verdict that its numbers allow.

A claim compares the number x of one variant with the same number of another, seed by seed, d = x₁ − x₂; or holds the
number of one variant against a constant. With m = `smallest`, the smallest difference that matters,

    higher    d > m      lower    d < −m      same    |d| < m        (one variant: x > m, x < m)

It is confirmed or refuted where the mean over all seeds that might have been drawn lies on one side of the bound, at a
level that holds for all claims of the study together (Holm 1979), and undecided otherwise.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Literal

from common.errors import InputError
from common.hashing import json_hash
from eval.codec import encode
from eval.intervals import Interval, student
from eval.noise import LEVEL
from study.statistics import holm, needed_seeds, one_sided

Direction = Literal["higher", "lower", "same"]
Outcome = Literal["confirmed", "refuted", "undecided"]


@dataclass(frozen=True)
class Claim:
    """A sentence that numbers can confirm or refute.

    Attributes:
        name: short and unique.
        says: the claim, in one plain sentence.
        metric: key of the number.
        contrast: one variant, or two: the first is compared with the second.
        direction: "higher", "lower" or "same".
        smallest: the smallest difference that matters, in the number's unit; for one variant the bound itself.
        source: the paper, equation or argument that it comes from.
    """

    name: str
    says: str
    metric: str
    contrast: list[str]
    direction: str
    smallest: float = 0.0
    source: str = ""


@dataclass(frozen=True)
class Verdict:
    """The outcome of a claim.

    Attributes:
        claim: that was tested.
        outcome: "confirmed", "refuted" or "undecided".
        seeds: that both variants have a number of.
        interval: of the mean difference, or of the mean; 95 %, of this claim alone.
        probability: the p-value that decides, corrected for all claims of the study; None where nothing was measured.
        needed: seeds at which a difference like this one would be decided with a chance of 80 %; None where it is
            decided, or no number of seeds can be told.
        why: what keeps it from being decided, where that is not the noise.
    """

    claim: Claim
    outcome: str
    seeds: list[int]
    interval: Interval | None
    probability: float | None
    needed: int | None = None
    why: str = ""


def check(claims: Sequence[Claim], variants: Sequence[str]) -> None:
    """Refuse claims that no numbers could decide.

    Raises:
        InputError: names the claim and what would be right.
    """
    names = [claim.name for claim in claims]
    for claim in claims:
        where = f"claim {claim.name!r}"
        if names.count(claim.name) > 1:
            raise InputError(f"{where} stands there twice; give each its own name")
        if claim.direction not in ("higher", "lower", "same"):
            raise InputError(f"{where}: direction must be higher, lower or same, got {claim.direction!r}")
        if len(claim.contrast) not in (1, 2) or len(set(claim.contrast)) != len(claim.contrast):
            raise InputError(f"{where}: contrast must name one variant, or two that differ")
        if unknown := [name for name in claim.contrast if name not in variants]:
            raise InputError(f"{where}: no variant {unknown[0]!r} (there are {', '.join(variants)})")
        if len(claim.contrast) == 1 and claim.direction == "same":
            raise InputError(f"{where}: one variant is higher or lower than a bound, not the same")
        if not math.isfinite(claim.smallest):
            raise InputError(f"{where}: smallest must be a finite number, got {claim.smallest}")
        if len(claim.contrast) == 2 and claim.smallest < 0:
            raise InputError(f"{where}: smallest is a size, at least 0, got {claim.smallest}")
        if claim.direction == "same" and claim.smallest == 0:
            raise InputError(f"{where}: 'same' needs smallest, the difference that would matter")


def fingerprint(claims: Sequence[Claim]) -> str:
    """sha256 of the claims, whatever their order."""
    return json_hash(sorted((encode(claim) for claim in claims), key=lambda entry: str(entry["name"])))


def verdicts(
    claims: Sequence[Claim], numbers: Mapping[str, Mapping[str, Mapping[int, float]]]
) -> list[Verdict]:
    """The verdict on every claim, in their order.

    Args:
        claims: checked.
        numbers: by metric, variant and seed.
    """
    values = [_values(claim, numbers.get(claim.metric, {})) for claim in claims]
    sides = [
        _sides(claim, list(some.values())) if some else None
        for claim, some in zip(claims, values, strict=True)
    ]
    # Either side may be what is found, hence twice the smaller one.
    raw = [1.0 if side is None else min(1.0, 2 * min(side)) for side in sides]
    corrected = holm(raw)
    found = []
    for claim, some, side, chance in zip(claims, values, sides, corrected, strict=True):
        if side is None:
            found.append(Verdict(claim, "undecided", [], None, None, why="no seed has been measured"))
            continue
        verdict = Verdict(claim, "undecided", list(some), student(list(some.values())), chance)
        if chance < LEVEL:
            confirms, refutes = side
            verdict = replace(verdict, outcome="confirmed" if confirms < refutes else "refuted")
        else:
            verdict = replace(verdict, needed=_needed(claim, list(some.values()), len(claims)))
        found.append(verdict)
    return found


def _values(claim: Claim, numbers: Mapping[str, Mapping[int, float]]) -> dict[int, float]:
    """By seed: the difference, or the number, that the claim is about."""
    first, *rest = (numbers.get(name, {}) for name in claim.contrast)
    if not rest:
        return dict(sorted(first.items()))
    return {seed: first[seed] - rest[0][seed] for seed in sorted(first.keys() & rest[0].keys())}


def _bounds(claim: Claim) -> list[tuple[float, int]]:
    """Bounds of the claim, and 1 where the mean must be above, -1 where below."""
    size = claim.smallest if len(claim.contrast) == 2 or claim.direction == "higher" else -claim.smallest
    return {
        "higher": [(size, 1)],
        "lower": [(-size, -1)],
        "same": [(-size, 1), (size, -1)],
    }[claim.direction]


def _sides(claim: Claim, values: Sequence[float]) -> tuple[float, float]:
    """One-sided p-values: of data like these if the claim were false, and if it were true."""
    bounds = _bounds(claim)
    confirms = max(one_sided(values, bound, side) for bound, side in bounds)
    refutes = min(one_sided(values, bound, -side) for bound, side in bounds)
    return confirms, refutes


def _needed(claim: Claim, values: Sequence[float], claims: int) -> int | None:
    distances = [abs(sum(values) / len(values) - bound) for bound, _ in _bounds(claim)]
    return needed_seeds(values, min(distances), LEVEL / claims)
