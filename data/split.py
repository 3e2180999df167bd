"""Which documents are held out, and which part of a single one."""

import hashlib
from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from data.errors import DataError


def check(held_out: float) -> None:
    """DataError: not a fraction that leaves something on both sides."""
    if not 0 < held_out < 1:
        raise DataError(f"held_out is {held_out}; as the fraction of documents it must be between 0 and 1")


def hold_out(units: Sequence[str], strata: Sequence[str], fraction: float, seed: int) -> NDArray[np.bool_]:
    """Marks the held-out documents, [n] for n documents of which each has a unit and a stratum.

    A unit is held out as a whole. Units are ordered by stratum, then by a hash of seed and name, and evenly
    spaced ones are taken: every stratum gives its share, and which of its units it gives is chance. At least
    one unit lands on either side. DataError: there is only one.
    """
    stratum_of = dict(zip(reversed(units), reversed(strata), strict=True))
    if len(stratum_of) < 2:
        raise DataError(
            f"all {len(units)} documents of the corpus go together: nothing is left to train on if one is held out"
        )
    chance = {unit: hashlib.sha256(f"{seed}:{unit}".encode()).digest() for unit in stratum_of}
    order = sorted(stratum_of, key=lambda unit: (stratum_of[unit], chance[unit]))
    count = min(max(1, round(fraction * len(order))), len(order) - 1)
    chosen = {order[int((rank + 0.5) * len(order) / count)] for rank in range(count)}
    return np.array([unit in chosen for unit in units])


def split_text(text: str, fraction: float) -> tuple[str, str]:
    """A single text in two: what is trained on, and about `fraction` of it, the end, that is held out.

    The cut is behind a line, else behind a word, where one ends in the last part before the place. DataError: either
    part would hold nothing.
    """
    place = min(max(1, round(len(text) * (1 - fraction))), len(text) - 1)
    first = place - int(len(text) * min(fraction, 1 - fraction) / 2)
    ends = [text.rfind(mark, max(0, first), place) + 1 for mark in ("\n", " ")]
    cut = next(filter(None, ends), place)
    if not (text[:cut].strip() and text[cut:].strip()):
        raise DataError("the corpus is a single document, too short to hold its end out")
    return text[:cut], text[cut:]
