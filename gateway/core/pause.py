"""The pause that a vendor asks for with 429, or with 503 and Retry-After: nobody calls until it is over, then one does.

After that probe the calls that may be under way at once grow with each that goes well, as TCP does after a loss (RFC
5681, slow start), so that the herd that waited does not bring on the next pause. Times are Unix time in seconds,
because replicas tell each other.
"""

from __future__ import annotations

from typing import Literal

_FIRST_AFTER_PROBE = 2

PausePhase = Literal["none", "paused", "probe", "ramp"]


class Pause:
    """Whether there is one. `concurrency` is how many calls may be under way when there is none."""

    def __init__(self, concurrency: int) -> None:
        self._concurrency = concurrency
        self._over = True
        self.until = 0.0
        self.allowed = concurrency

    def phase(self, now: float) -> PausePhase:
        """Where it stands: on, waiting for what comes of the probe, letting more and more calls through, or over."""
        if not self._over:
            return "paused" if now < self.until else "probe"
        return "none" if self.allowed >= self._concurrency else "ramp"

    def begin(self, until: float) -> bool:
        """Pause until then; whether that is news."""
        if until <= self.until:
            return False
        self.until, self._over = until, False
        return True

    def resume(self) -> bool:
        """The probe has come back without another wish for a pause; whether that is news."""
        if self._over:
            return False
        self._over, self.allowed = True, min(_FIRST_AFTER_PROBE, self._concurrency)
        return True

    def went_well(self) -> None:
        """A call has come back: one more may be under way."""
        self.allowed = min(self.allowed + 1, self._concurrency)
