"""The token bucket: so many a second on average, so many at once (RFC 2697 calls these rate and burst size)."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(slots=True)
class Bucket:
    """Fills by `rate` tokens a second up to `burst`. Times are seconds of one clock that does not go backwards."""

    rate: float
    burst: float
    level: float
    at: float

    @classmethod
    def full(cls, rate: float, burst: float, now: float) -> Bucket:
        """One that nobody has taken from."""
        return cls(rate, burst, burst, now)

    def take(self, now: float) -> float | None:
        """Take a token. None when there was one, else the seconds until there will be."""
        self.level = min(self.burst, self.level + max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)
        if self.level < 1.0:
            return (1.0 - self.level) / self.rate
        self.level -= 1.0
        return None
