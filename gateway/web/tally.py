"""Counting what is answered without a fact for each: sums, told once in a while."""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterator
from dataclasses import dataclass, field

from gateway.core.facts import LATENCY_BOUNDS, CacheResult, RequestsReplayed


@dataclass(slots=True)
class Tally:
    """What was answered alike since it was told last."""

    method: str
    team: str
    status: int
    cache: CacheResult
    body_bytes: int = 0
    seconds: float = 0.0
    buckets: list[int] = field(default_factory=lambda: [0] * (len(LATENCY_BOUNDS) + 1))

    def count(self, body_bytes: int, seconds: float) -> None:
        """Count one answer."""
        self.body_bytes += body_bytes
        self.seconds += seconds
        self.buckets[bisect_left(LATENCY_BOUNDS, seconds)] += 1

    def told(self) -> RequestsReplayed:
        """The fact, and begin anew."""
        buckets = tuple(self.buckets)
        fact = RequestsReplayed(
            self.method, self.team, self.status, self.cache, sum(buckets), self.body_bytes, self.seconds, buckets
        )
        self.body_bytes, self.seconds, self.buckets = 0, 0.0, [0] * len(buckets)
        return fact


class Tallies:
    """The tallies of one listener: by method, team, status and result, none of which a client makes up."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int, CacheResult], Tally] = {}

    def of(self, method: str, team: str, status: int, cache: CacheResult) -> Tally:
        """Where answers of this kind are counted."""
        key = (method, team, status, cache)
        if key not in self._tallies:
            self._tallies[key] = Tally(*key)
        return self._tallies[key]

    def told(self) -> Iterator[RequestsReplayed]:
        """What was counted since this was called last."""
        for tally in self._tallies.values():
            fact = tally.told()
            if fact.requests:
                yield fact
