"""A clock that stands still until it is moved."""

from __future__ import annotations

from gateway.core.clock import SystemClock


class HandClock(SystemClock):
    """The real clock over a monotonic time that is advanced by hand."""

    def __init__(self) -> None:
        self.passed = 100.0
        super().__init__(wall=lambda: 1_000_000.0 + self.passed, monotonic=lambda: self.passed)

    def skip(self, seconds: float) -> None:
        """Let time pass."""
        self.passed += seconds

    def step(self, seconds: float) -> None:
        """Set the wall clock."""
        self.correct(self.now() + seconds, self.now() + seconds)
