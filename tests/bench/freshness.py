"""How often is an answer out of date, and at what price in vendor calls? Fixed lifetimes against ours.

A simulated vendor: pages that rest for an hour or two, and then are worked on for some minutes, during which they
change every few seconds. Requests follow a Zipf law. Each policy answers the same requests by the gateway's own
decisions (`cache.policy`), grace included; only the lifetimes differ. An answer is out of date when the vendor's page
at that moment is another one.
"""

from __future__ import annotations

import bisect
import random
import sys
from dataclasses import dataclass
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parents[2]))
sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from entries import entry

from gateway.cache.policy import Fetch, ServeAndRefresh, decide, page_lifetime
from gateway.config.options import Lifetimes
from gateway.core.cache_control import VendorCaching
from gateway.core.listing import Listing
from gateway.storage.entry import Entry

PAGES = 150
HOURS = 4
REQUESTS_PER_SECOND = 4
FIXED = (2, 5, 10, 20, 30, 60, 120, 300, 600)


@dataclass
class Page:
    """When a page changes, and when it is being worked on; seconds."""

    changes: list[float]
    busy: list[tuple[float, float]]

    def version(self, now: float) -> int:
        return bisect.bisect_right(self.changes, now)

    def settled(self, now: float) -> bool:
        place = bisect.bisect_right(self.busy, (now, float("inf"))) - 1
        return place < 0 or now >= self.busy[place][1]


def page(chance: random.Random) -> Page:
    now = chance.expovariate(1 / 5400)
    changes: list[float] = []
    busy: list[tuple[float, float]] = []
    while now < HOURS * 3600:
        end = now + chance.uniform(120, 900)
        busy.append((now, end))
        while now < end:
            changes.append(now)
            now += chance.uniform(5, 30)
        changes.append(end)
        now = end + chance.expovariate(1 / 5400)
    return Page(changes, busy)


def requests(chance: random.Random) -> list[tuple[float, int]]:
    weights = [1 / (rank + 1) ** 0.8 for rank in range(PAGES)]
    count = HOURS * 3600 * REQUESTS_PER_SECOND
    times = sorted(chance.uniform(0, HOURS * 3600) for _ in range(count))
    return list(zip(times, chance.choices(range(PAGES), weights, k=count), strict=True))


def replay(lifetimes: Lifetimes, pages: list[Page], trace: list[tuple[float, int]]) -> tuple[int, float]:
    """Vendor calls, and the share of answers that were out of date."""
    cache: dict[int, tuple[Entry, int]] = {}
    calls = stale = 0

    def fetch(number: int, now: float) -> int:
        version = pages[number].version(now)
        shown = Listing(10, 0, 10, 10, pages[number].settled(now), b"")
        lives = page_lifetime(shown, VendorCaching(), lifetimes, 0.0)
        until = now + lives.fresh
        kept = entry(now=now, fresh_until=until, grace_until=until + lives.grace, keep_until=until + lives.keep)
        cache[number] = (kept, version)
        return version

    for now, number in trace:
        kept, version = cache.get(number, (None, -1))
        decision = decide(kept, now)
        if isinstance(decision, Fetch):
            version = fetch(number, now)
            calls += 1
        stale += version != pages[number].version(now)
        if isinstance(decision, ServeAndRefresh):
            fetch(number, now)
            calls += 1
    return calls, stale / len(trace)


def at_calls(calls: int, points: list[tuple[int, float]]) -> float:
    """What fixed lifetimes are out of date at so many calls, between the two nearest that were measured."""
    ordered = sorted(points)
    place = min(max(1, bisect.bisect(ordered, (calls, 0.0))), len(ordered) - 1)
    (c1, s1), (c2, s2) = ordered[place - 1], ordered[place]
    return s1 + (s2 - s1) * (calls - c1) / (c2 - c1)


def main() -> None:
    chance = random.Random(7)
    pages = [page(chance) for _ in range(PAGES)]
    trace = requests(chance)
    print(f"{len(trace)} requests for {PAGES} pages in {HOURS} simulated hours\n")
    print(f"{'lifetime':>12}  {'vendor calls':>12}  {'out of date':>12}")
    fixed = []
    for seconds in FIXED:
        calls, stale = replay(Lifetimes(settled=seconds, in_progress=seconds, empty=seconds), pages, trace)
        fixed.append((calls, stale))
        print(f"{seconds:>10} s  {calls:>12}  {stale:>11.2%}")
    calls, stale = replay(Lifetimes(), pages, trace)
    print(f"{'by content':>12}  {calls:>12}  {stale:>11.2%}\n")
    better = [seconds for seconds, (c, s) in zip(FIXED, fixed, strict=True) if c <= calls and s <= stale]
    print(f"fixed lifetimes that are better on both: {better or 'none'}")
    print(f"at equal calls: fixed {at_calls(calls, fixed):.2%} out of date, by content {stale:.2%}")


if __name__ == "__main__":
    main()
