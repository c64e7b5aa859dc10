"""Which page to forget? Hit ratios of eviction policies on a trace of popular pages and crawls.

The trace: requests for pages by a Zipf law, and now and then a crawl that reads every page of some listing once, as the
teams' nightly jobs do. Prints the share of hits by cache size, and each policy's ratio to LRU.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from cachetools import FIFOCache, LFUCache, LRUCache

sys.path.insert(0, str(Path(__file__).parents[2]))

from gateway.storage.eviction import S3Fifo

PAGES = 20_000
REQUESTS = 400_000
CRAWL_PAGES = 500
CRAWL_SHARE = 0.3  # of all requests
SKEW = 0.9

Look = Callable[[str], bool]


def trace(seed: int) -> Iterator[str]:
    """Page names, popular ones and crawls mixed as they would be."""
    chance = random.Random(seed)
    weights = [1 / (rank + 1) ** SKEW for rank in range(PAGES)]
    popular = chance.choices(range(PAGES), weights, k=REQUESTS)
    crawl: list[str] = []
    for number, page in enumerate(popular):
        if crawl and chance.random() < CRAWL_SHARE:
            yield crawl.pop()
        else:
            yield f"page {page}"
        if not crawl:
            crawl = [f"crawl {number} {step}" for step in range(CRAWL_PAGES)]


def of_cachetools(kind: Any, size: int) -> Look:
    cache = kind(size)

    def look(name: str) -> bool:
        if cache.get(name) is not None:
            return True
        cache[name] = name
        return False

    return look


def ours(size: int) -> Look:
    cache: S3Fifo[str] = S3Fifo(size, lambda _: None)

    def look(name: str) -> bool:
        if cache.get(name) is not None:
            return True
        cache.put(name, name, 1)
        return False

    return look


def cell(share: float, lru: float) -> str:
    told = f"{share:.3f} ({share / lru:.2f} x LRU)"
    return f"{told:>24}"


def main() -> None:
    names = list(trace(1))
    policies: dict[str, Callable[[int], Look]] = {
        "LRU": lambda size: of_cachetools(LRUCache, size),
        "LFU": lambda size: of_cachetools(LFUCache, size),
        "FIFO": lambda size: of_cachetools(FIFOCache, size),
        "S3-FIFO (ours)": ours,
    }
    print(f"{'pages held':>12}" + "".join(f"{name:>24}" for name in policies))
    for size in (200, 1000, 4000):
        shares = {}
        for name, make in policies.items():
            look = make(size)
            shares[name] = sum(look(page) for page in names) / len(names)
        told = "".join(cell(share, shares["LRU"]) for share in shares.values())
        print(f"{size:>12}{told}")


if __name__ == "__main__":
    main()
