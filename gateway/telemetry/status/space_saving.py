"""The most frequent of any number of keys, in bounded memory.

Space-Saving: A. Metwally, D. Agrawal, A. El Abbadi, "Efficient Computation of Frequent and Top-k Elements in Data
Streams", ICDT 2005. A key that is not held takes the place of the rarest one, and its count: so that a count is never
too small, and too large by at most what is told with it. Whatever is more frequent than 1 / capacity of all is held.
Merging: P. K. Agarwal et al., "Mergeable Summaries", PODS 2012.
"""

from __future__ import annotations

import heapq

import msgspec


class Frequent(msgspec.Struct, array_like=True, frozen=True):
    """A key, how often it was seen at most, and how much less often it may have been."""

    key: str
    count: int
    over: int


class Summary(msgspec.Struct, array_like=True, frozen=True):
    """The keys held, the most frequent first. One that is not among them was seen `floor` times at most."""

    keys: list[Frequent]
    floor: int


class SpaceSaving:
    """Counts keys, `capacity` of them at once.

    The rarest is found by a heap whose counts may be out of date, and are mended when they come up: counting a key
    that is held costs one look-up, and mending is paid for by the counting that made it necessary.
    """

    def __init__(self, capacity: int) -> None:
        self._capacity = capacity
        self._counts: dict[str, int] = {}
        self._over: dict[str, int] = {}
        self._heap: list[tuple[int, str]] = []

    def add(self, key: str, n: int = 1) -> None:
        """Count a key n times."""
        counts = self._counts
        if key in counts:
            counts[key] += n
        elif len(counts) < self._capacity:
            counts[key] = n
            heapq.heappush(self._heap, (n, key))
        else:
            self._replace(key, n)

    def _replace(self, key: str, n: int) -> None:
        heap, counts = self._heap, self._counts
        while True:
            told, rarest = heap[0]
            count = counts[rarest]
            if told == count:
                break
            heapq.heapreplace(heap, (count, rarest))
        del counts[rarest]
        self._over.pop(rarest, None)
        counts[key] = count + n
        self._over[key] = count
        heapq.heapreplace(heap, (count + n, key))

    def summary(self) -> Summary:
        """What was counted so far."""
        keys = [Frequent(key, count, self._over.get(key, 0)) for key, count in self._counts.items()]
        keys.sort(key=_rank)
        return Summary(keys, keys[-1].count if len(keys) >= self._capacity else 0)


def merge(one: Summary, other: Summary, capacity: int) -> Summary:
    """What two have counted, as one summary of this capacity.

    A key that only one of them holds may have been seen by the other one, as often as that one's floor.
    """
    ours, theirs = ({frequent.key: frequent for frequent in summary.keys} for summary in (one, other))
    keys = []
    for key in ours.keys() | theirs.keys():
        mine = ours.get(key) or Frequent(key, one.floor, one.floor)
        its = theirs.get(key) or Frequent(key, other.floor, other.floor)
        keys.append(Frequent(key, mine.count + its.count, mine.over + its.over))
    keys.sort(key=_rank)
    dropped = keys[capacity].count if len(keys) > capacity else 0
    return Summary(keys[:capacity], max(one.floor + other.floor, dropped))


def _rank(frequent: Frequent) -> tuple[int, str]:
    return -frequent.count, frequent.key
