"""Ctrl-C and SIGTERM as a request to finish the step, save and leave."""

import signal
import time
from types import FrameType, TracebackType
from typing import Self

_PATIENCE = 2.0
"""Seconds within which a repeated signal counts as the same: torchrun passes on a Ctrl-C that came here, too."""


class StopRequest:
    """While entered, the first signal sets `requested`; one that comes later than a moment has its usual effect."""

    def __init__(self) -> None:
        self.requested = False
        self._at = 0.0
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> Self:
        for number in (signal.SIGINT, signal.SIGTERM):
            self._before[number] = signal.signal(number, self._receive)
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type]

    def _receive(self, number: int, frame: FrameType | None) -> None:
        now = time.monotonic()
        if self.requested and now - self._at > _PATIENCE:
            signal.signal(number, signal.SIG_DFL if number == signal.SIGTERM else signal.default_int_handler)
            signal.raise_signal(number)
        if not self.requested:
            self.requested, self._at = True, now
