"""Decide what is tried again, when, and how often in total.

Arithmetic only: `client` has the loop and passes in the time left and a random number. The budget is that of Finagle
and linkerd: retries are limited to a share of all calls, so a failing vendor gets a tenth more load and not a
multiple.
"""

from __future__ import annotations

# A GET is safe to repeat (RFC 9110, section 9.2.2); these answers say that another attempt may fare better.
RETRYABLE_STATUS = frozenset({500, 502, 503, 504})

_FIRST_BACKOFF = 0.1
_LONGEST_BACKOFF = 2.0


def backoff(attempt: int, chance: float) -> float:
    """Seconds to wait after attempt number `attempt` (1 is the first); `chance` in [0, 1) is "full jitter".

    Exponential Backoff and Jitter, AWS Architecture Blog, 2015.
    """
    return min(_LONGEST_BACKOFF, _FIRST_BACKOFF * 2.0 ** (attempt - 1)) * chance


class RetryBudget:
    """Retries are at most `ratio` of the calls, plus a few to start with."""

    def __init__(self, ratio: float, *, at_start: int = 10) -> None:
        self._ratio = ratio
        self._balance = float(at_start)

    def called(self) -> None:
        """A first attempt leaves."""
        self._balance += self._ratio

    def take(self) -> bool:
        """Spend one retry if there is one."""
        if self._balance < 1.0:
            return False
        self._balance -= 1.0
        return True
