"""Time, as a seam: everything that waits or dates something is given a Clock."""

from __future__ import annotations

import asyncio
import time
from typing import Protocol


class Clock(Protocol):
    """Wall time for what is stored, monotonic time for deadlines and durations, and waiting."""

    def now(self) -> float:
        """Unix time in seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, never going backwards."""
        ...

    def correct(self, now: float) -> None:
        """Take the wall time from elsewhere: this machine's may be wrong, and replicas must agree."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


_LARGEST_STEP = 1.0


class SystemClock:
    """The real one. Wall time is read once and then advanced monotonically.

    A machine whose clock is set by an hour while the gateway runs would otherwise expire every page at once, or keep
    every page an hour too long.
    """

    def __init__(self) -> None:
        self._offset = time.time() - time.monotonic()
        self._corrected = False

    def now(self) -> float:
        """Unix time in seconds."""
        return time.monotonic() + self._offset

    # Not wrapped, because each request reads it several times.
    monotonic = staticmethod(time.monotonic)

    def correct(self, now: float) -> None:
        """Approach this Unix time: at once the first time, and then by a second at most each time.

        So drift is made good, and somebody else's clock that is set by an hour does not expire every page either.
        """
        error = now - self.now()
        if self._corrected:
            error = min(max(error, -_LARGEST_STEP), _LARGEST_STEP)
        self._corrected = True
        self._offset += error

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
