"""The pause that a vendor asks for with 429, or with 503 and Retry-After: nobody calls until it is over, then one does.

After that probe the calls that may be under way at once grow with each that goes well, as TCP does after a loss (RFC
5681, slow start), so that the herd that waited does not bring on the next pause.

Replicas name a pause by the Unix time of its end, and tell each other how long it still lasts. That is measured by each
replica's own monotonic clock, and bounded: clocks may be wrong, and may be set while a pause lasts.
"""

from __future__ import annotations

import math
from typing import Literal

_FIRST_AFTER_PROBE = 2
# The longest pause, in seconds, whatever a replica or Redis says; `classification` clamps a Retry-After to as much.
LONGEST_PAUSE = 60.0

PausePhase = Literal["none", "paused", "probe", "ramp"]


class Pause:
    """Whether there is one. `concurrency` is how many calls may be under way when there is none."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._over = True
        self.until = 0.0
        """The name of the latest pause: the Unix time of its end, by the clock of whoever announced it."""
        self.ends = -math.inf
        """When it ends, on the monotonic clock."""
        self.allowed = concurrency

    def phase(self, now: float) -> PausePhase:
        """Where it stands at a monotonic time: on, waiting for its probe, letting more and more calls through, over."""
        if not self._over:
            return "paused" if now < self.ends else "probe"
        return "none" if self.allowed >= self._concurrency else "ramp"

    def begin(self, until: float, ends: float) -> bool:
        """Pause until `ends`, on the monotonic clock. Returns whether that is longer than known."""
        if ends <= self.ends or until == self.until:
            return False
        self.until, self.ends, self._over = until, ends, False
        return True

    def resume(self) -> bool:
        """The probe has come back without another wish for a pause; whether that is news."""
        if self._over:
            return False
        self._over, self.allowed = True, min(_FIRST_AFTER_PROBE, self._concurrency)
        return True

    def succeeded(self) -> None:
        """A call has come back: one more may be under way."""
        self.allowed = min(self.allowed + 1, self._concurrency)
