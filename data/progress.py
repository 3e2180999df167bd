"""How far a long build is: a bar on a terminal, in a log a line every half minute, nothing where it is over before."""

import sys
import time

from tqdm import tqdm

EVERY = 30.0
"""Seconds between two lines of a log."""


class Progress:
    """Bytes of text that are done, of how many, how fast, and how long the rest takes."""

    def __init__(self, what: str, total: int | None, begun: int = 0) -> None:
        """`what` is done, in words; `total` bytes, where that is known, of which `begun` were done before."""
        self._bar = tqdm(
            desc=what,
            total=total,
            initial=begun,
            unit="B",
            unit_scale=True,
            leave=False,
            disable=not sys.stderr.isatty(),
        )
        self._what, self._total, self._begun, self._done = what, total, begun, begun
        self._start = self._said = time.monotonic()

    def __enter__(self) -> "Progress":
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.close()

    def add(self, size: int) -> None:
        """So many more bytes are done."""
        self._done += size
        self._bar.update(size)
        now = time.monotonic()
        if self._bar.disable and now - self._said >= EVERY:
            self._said = now
            print(self.line(now - self._start), file=sys.stderr, flush=True)

    def line(self, seconds: float) -> str:
        """What a log says after so many seconds."""
        speed = (self._done - self._begun) / max(seconds, 1e-9)
        said = f"{self._what}: {self._done / 1e6:,.0f} MB"
        if self._total is not None:
            said += f" of {self._total / 1e6:,.0f}"
        said += f", {speed / 1e6:.1f} MB/s"
        if self._total is not None and speed > 0:
            left = round(max(0, self._total - self._done) / speed)
            said += f", {left // 3600}:{left // 60 % 60:02d}:{left % 60:02d} left"
        return said
