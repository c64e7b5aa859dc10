"""Counting what is answered without a fact for each: sums, told once in a while."""

from __future__ import annotations

from collections.abc import Iterator

from gateway.core.facts import CacheResult, RequestsReplayed
from gateway.core.sums import Sums


class Tallies:
    """What one listener answered: by method, team, status and result, none of which a client makes up."""

    def __init__(self) -> None:
        self._tallies: dict[tuple[str, str, int, CacheResult], Sums] = {}

    def of(self, method: str, team: str, status: int, cache: CacheResult) -> Sums:
        """Where answers of this kind are counted, for good."""
        return self._tallies.setdefault((method, team, status, cache), Sums())

    def told(self) -> Iterator[RequestsReplayed]:
        """What was counted since this was called last."""
        for kind, sums in self._tallies.items():
            body_bytes, seconds, buckets = sums.taken()
            if requests := sum(buckets):
                yield RequestsReplayed(*kind, requests, body_bytes, seconds, buckets)
