"""Time, as a seam: everything that waits or dates something is given a Clock."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from typing import Protocol


class Clock(Protocol):
    """Wall time for stored dates, monotonic time for deadlines and durations, and sleep."""

    def now(self) -> float:
        """Unix time in seconds."""
        ...

    def monotonic(self) -> float:
        """Seconds since some moment, never going backwards."""
        ...

    @property
    def steps(self) -> int:
        """How often the wall time was stepped. Dates from before a step say nothing after it."""
        ...

    def correct(self, earliest: float, latest: float) -> None:
        """Take the wall time from elsewhere, where it is now between these two Unix times."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        ...


# A correction by more than this, in seconds, is a step.
_STEP = 1.0


class SystemClock:
    """The clock of the machine. Wall time is read once and then advanced by the monotonic clock.

    Otherwise, a machine whose clock is set by an hour while the gateway runs would expire every page at once, or keep
    every page an hour too long. Where there is Redis, its clock replaces the machine's (`correct`).
    """

    def __init__(self, wall: Callable[[], float] = time.time, monotonic: Callable[[], float] = time.monotonic) -> None:
        # An attribute and not a method: each request reads it several times.
        self.monotonic = monotonic
        """Seconds since some moment, never going backwards."""
        self._offset = wall() - monotonic()
        self._set_back = 0.0
        self.steps = 0
        """How often the wall time was stepped. Dates from before a step say nothing after it."""

    def now(self) -> float:
        """Unix time in seconds."""
        return self.monotonic() + self._offset

    def correct(self, earliest: float, latest: float) -> None:
        """Take the wall time from elsewhere, where it is now between these two Unix times.

        A clock within these bounds is right. Small corrections follow the drift of clocks. A large one is a step, and
        so are small ones that together set the clock back by as much: pages would outlive what they are allowed.
        """
        now = self.now()
        error = min(max(now, earliest), latest) - now
        self._offset += error
        self._set_back += max(0.0, -error)
        if abs(error) > _STEP or self._set_back > _STEP:
            self.steps += 1
            self._set_back = 0.0

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)
