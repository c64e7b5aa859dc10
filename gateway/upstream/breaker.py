"""The circuit breaker: after so many failures in a row nobody is sent, and after a while a single probe is.

Arithmetic over a given time. Each change of state begins a generation, and what was sent in an earlier one no longer
counts when it comes back: a success from before the vendor failed proves nothing (gobreaker).
"""

from __future__ import annotations

from dataclasses import dataclass

from gateway.core.events import BreakerState


@dataclass(frozen=True, slots=True)
class BreakerPermit:
    """Leave to call, given in a generation of the breaker."""

    generation: int


class Breaker:
    """Opens after `failures` in a row, for `cooldown` seconds."""

    def __init__(self, failures: int, cooldown: float) -> None:
        self._most = failures
        self._cooldown = cooldown
        self._failures = 0
        self._opened = 0.0
        self._generation = 0
        self.state: BreakerState = "closed"

    def wait(self, now: float) -> float | None:
        """How many seconds there are until a call may be tried; None when one may be tried now."""
        match self.state:
            case "closed":
                return None
            case "half_open":
                return self._cooldown  # the probe is out
            case "open":
                left = self._opened + self._cooldown - now
                return left if left > 0 else None

    def enter(self, now: float) -> BreakerPermit | None:
        """Leave to call, which has to be given back; None where there is none to be had."""
        if self.wait(now) is not None:
            return None
        if self.state == "open":
            self._turn("half_open")
        return BreakerPermit(self._generation)

    def leave(self, given: BreakerPermit, now: float, *, well: bool | None) -> None:
        """Give it back: the call went `well`, or not, or (None) nobody will know."""
        if given.generation != self._generation:
            return
        if well:
            self._failures = 0
            if self.state == "half_open":
                self._turn("closed")
        elif self.state == "half_open":
            if well is not None:
                self._opened = now
            self._turn("open")
        elif well is not None:
            self._failures += 1
            if self._failures >= self._most:
                self._opened = now
                self._turn("open")

    def _turn(self, state: BreakerState) -> None:
        self.state = state
        self._generation += 1
        self._failures = 0
