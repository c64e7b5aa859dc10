"""Decide whether connections to the vendor may be used again, and how long one must be quiet before it is.

Arithmetic only: times are seconds of a monotonic clock and are passed in.
"""

from __future__ import annotations

from collections import deque

SUSPENSION = 600.0
"""Seconds without reuse after the vendor has shown that reuse is not safe, or does not pay."""

_SHORTEST_QUIET = 0.005
_LONGEST_QUIET = 0.1

_DIRTY_WITHIN = 600.0
_REPLACED_WITHIN = 60.0
_REPLACED_SHARE = 0.1
# A share of fewer losses than these says nothing: a server that closes idle connections now and then is no fault.
_FEWEST_REPLACED = 5


def quiet_seconds(round_trip: float | None) -> float:
    """Return how long nothing may have arrived on a connection before it is used again.

    `round_trip` is its TCP handshake time, None where the operating system does not tell. What a vendor sends along
    with an answer, or right behind it, has arrived after twice that time.
    """
    if round_trip is None:
        return _LONGEST_QUIET
    return min(max(2 * round_trip, _SHORTEST_QUIET), _LONGEST_QUIET)


class ReuseGuard:
    """Suspend the reuse of connections when the vendor sends unsolicited bytes, or closes too many of them."""

    def __init__(self) -> None:
        self._suspended_until = float("-inf")
        self._last_dirty = float("-inf")
        self._checkouts: deque[float] = deque()
        self._replaced: deque[float] = deque()

    def allows(self, now: float) -> bool:
        """Return whether a kept connection may be used."""
        return now >= self._suspended_until

    def checked_out(self, now: float) -> None:
        """Count a connection that a call begins to use."""
        self._checkouts.append(now)
        self._forget(now)

    def dirty(self, now: float) -> bool:
        """Count a connection with unsolicited bytes; return whether this suspends reuse."""
        again = now - self._last_dirty < _DIRTY_WITHIN
        self._last_dirty = now
        return again and self._suspend(now)

    def replaced(self, now: float) -> bool:
        """Count a kept connection that was lost before an answer; return whether this suspends reuse."""
        self._replaced.append(now)
        self._forget(now)
        losses = len(self._replaced)
        too_many = losses >= _FEWEST_REPLACED and losses > _REPLACED_SHARE * len(self._checkouts)
        return too_many and self._suspend(now)

    def _suspend(self, now: float) -> bool:
        if not self.allows(now):
            return False
        self._suspended_until = now + SUSPENSION
        self._last_dirty = float("-inf")
        self._checkouts.clear()
        self._replaced.clear()
        return True

    def _forget(self, now: float) -> None:
        for times in (self._checkouts, self._replaced):
            while times and times[0] <= now - _REPLACED_WITHIN:
                times.popleft()
