"""Per-layer patterns: `"softmax*1,swat*3"` repeats one softmax layer and three SWAT layers down the model."""

from itertools import cycle, islice

from common.shapes import shown
from models.errors import ModelError

MOST_LAYERS, WIDEST = 1024, 2**31
"""How often a name may be repeated, and how many keys a window may have."""


def parse(pattern: str) -> list[str]:
    """The names of one period, written out: `"softmax*1,swat*3"` gives one softmax and three swat.

    A name without a count stands for one layer.

    Raises:
        ModelError: an empty pattern or item, or a count that is not a positive integer.
    """
    period: list[str] = []
    for item in str(pattern).split(","):
        name, star, count = (part.strip() for part in item.partition("*"))
        if not name or (star and _number(count, MOST_LAYERS) is None):
            raise ModelError(
                f"cannot read {shown(item.strip())} in the pattern {shown(pattern)}; write names and counts, "
                "softmax*1,swat*3"
            )
        period += [name] * (int(count) if star else 1)
    return period


def tile(pattern: str, n_layer: int) -> list[str]:
    """One name per layer: the pattern repeated until every layer has one; the last period may be cut short.

    Raises:
        ModelError: an unreadable pattern, or one longer than the model.
    """
    period = parse(pattern)
    if len(period) > n_layer:
        raise ModelError(f"the pattern {shown(pattern)} spans {len(period)} layers, the model has {n_layer}")
    return list(islice(cycle(period), n_layer))


def windows(pattern: str | None, n_layer: int) -> list[int | None]:
    """One window per layer from `"128"`, `"none*1,128*3"` or None; `none` leaves the mechanism's own default.

    Raises:
        ModelError: as `tile`, or an entry that is neither `none` nor a positive integer.
    """
    if pattern is None:
        return [None] * n_layer
    return [_window(entry, pattern) for entry in tile(pattern, n_layer)]


def _window(entry: str, pattern: str) -> int | None:
    if entry.lower() == "none":
        return None
    keys = _number(entry, WIDEST)
    if keys is None:
        raise ModelError(
            f"window {shown(entry)} in {shown(pattern)} must be 'none' or a positive number of keys, at most {WIDEST}"
        )
    return keys


def _number(digits: str, most: int) -> int | None:
    """The positive integer that the digits write, None where they do not or it is above `most`."""
    if not (digits.isascii() and digits.isdigit() and len(digits) <= len(str(most))):
        return None
    return int(digits) if 1 <= int(digits) <= most else None
