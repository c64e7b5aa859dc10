"""The token bucket: it holds up to `burst` tokens and gains `rate` tokens a second (RFC 2697)."""

from __future__ import annotations

import math
from dataclasses import dataclass

# Tokens. Times are floats, and a token that arrives exactly now must not be missed for the last bit of one.
TOLERANCE = 1e-6


@dataclass(slots=True)
class TokenBucket:
    """A bucket in which `used` tokens were missing at `at`, in seconds of a clock that does not go backwards.

    What is missing is kept instead of the level, so that a bucket that was full is still full after `burst` is raised.
    """

    rate: float
    burst: float
    used: float
    at: float

    @classmethod
    def full(cls, rate: float, burst: float, now: float) -> TokenBucket:
        """Return a bucket from which nothing was taken."""
        return cls(rate, burst, 0.0, now)

    def level(self, now: float) -> float:
        """Return the number of tokens in the bucket."""
        self.used = max(0.0, self.used - max(0.0, now - self.at) * self.rate)
        self.at = max(self.at, now)
        return self.burst - self.used

    def wait(self, now: float) -> float:
        """Return the seconds until the bucket holds a token, 0 when it does."""
        level = self.level(now)
        return 0.0 if level >= 1.0 - TOLERANCE else (1.0 - level) / self.rate

    def take(self, now: float) -> float | None:
        """Take a token. Return None, or the seconds until there is one."""
        # `wait` and `charge` in one, because every hit of a team with a rate comes here.
        used = self.used
        if now > self.at:
            used -= (now - self.at) * self.rate
            used = max(used, 0.0)
            self.at = now
        level = self.burst - used
        if level < 1.0 - TOLERANCE:
            self.used = used
            return (1.0 - level) / self.rate
        self.used = used + 1.0
        return None

    def charge(self, tokens: int, now: float) -> None:
        """Remove up to this many whole tokens, or return them where the number is negative."""
        level = self.level(now)
        self.used += min(tokens, math.floor(level + TOLERANCE))

    def retune(self, rate: float, burst: float, now: float) -> None:
        """Change rate and burst. What was used remains used, as far as the new burst allows."""
        self.level(now)
        self.rate, self.burst, self.used = rate, burst, min(self.used, burst)
