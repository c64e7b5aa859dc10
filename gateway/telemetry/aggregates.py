"""Sums over many requests, which cost less than an event for each."""

from __future__ import annotations

from bisect import bisect_left
from dataclasses import dataclass, field

from gateway.core.events import LATENCY_BOUNDS


@dataclass(slots=True)
class Aggregates:
    """Bytes of bodies, seconds, and requests by LATENCY_BOUNDS."""

    body_bytes: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))

    def add(self, body_bytes: int, seconds: float) -> None:
        """Count one request."""
        self.body_bytes += body_bytes
        self.seconds += seconds
        self.buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def drain(self) -> tuple[int, float, tuple[int, ...]]:
        """What was counted since this was called last."""
        told = (self.body_bytes, self.seconds, tuple(self.buckets))
        self.body_bytes, self.seconds, self.buckets = 0, 0.0, [0] * len(self.buckets)
        return told
