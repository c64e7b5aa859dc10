"""What it brings to know listings: vendor calls for a mixed workload, and the cost of a window that memory holds.

Calls: teams with page sizes from 10 to 100, crawling aligned and reading unaligned, on AOIs of a few hundred assets,
all within one lifetime. Exact pages is what any proxy does: the same cache, kept from learning limits, so that no
window can be cut. The same requests go to each.

Cost: CPU of the gateway's process by request, for 100 assets: the page itself, a window of others that was asked for
before, and windows that nobody has asked for yet.
"""

from __future__ import annotations

import asyncio
import random
import statistics
import sys
from collections.abc import Callable
from itertools import count
from pathlib import Path

import aiohttp

sys.path.insert(0, str(Path(__file__).parents[1] / "support"))

from harness import VENDOR_KEY, SteeredClock, spawn

from gateway.cache.chunks import ChunkedFetch
from gateway.cache.fetcher import Fetcher
from gateway.cache.handler import CacheHandler
from gateway.cache.lookup import Lookup
from gateway.cache.page_limits import PageLimits
from gateway.config.options import Lifetimes
from gateway.core.cache_control import VendorCaching
from gateway.core.listing import parse_listing
from gateway.core.query import AssetsQuery
from gateway.mock_vendor.server import MockVendor
from gateway.storage.memory import MemoryStore
from gateway.storage.redis.leases import LocalLeases
from gateway.teams.budgets import Budgets
from gateway.upstream.classification import FetchedPage

AOIS = 20
SIZES = (10, 20, 25, 50, 100)
READS = 1000
ROUNDS = 5
REQUESTS = 150


class NothingLearned(PageLimits):
    """Knows of no limit, and so of no window."""

    def learn(self, asked: int, printed: int, count: int, started: float) -> None:
        """Learn nothing."""


def ignore(_: object) -> None:
    """No sink."""


def workload(chance: random.Random, totals: dict[str, int]) -> list[AssetsQuery]:
    """Crawls with each page size, and reads of windows that begin anywhere, in no order."""
    aois = list(totals)
    weights = [1 / place for place in range(1, len(aois) + 1)]
    reads: list[AssetsQuery] = []
    while len(reads) < READS:
        aoi, size = chance.choices(aois, weights)[0], chance.choice(SIZES)
        if chance.random() < 0.1:
            reads += [AssetsQuery(aoi, offset, size) for offset in range(0, totals[aoi], size)]
        else:
            reads.append(AssetsQuery(aoi, chance.randrange(totals[aoi]), size))
    return reads


async def calls(vendor: MockVendor, reads: list[AssetsQuery], limits: PageLimits, chunk: int) -> int:
    """How often the vendor is asked for these reads."""
    clock, asked = SteeredClock(), count(1)
    made = 0

    async def fetch(query: AssetsQuery, *_: object) -> FetchedPage:
        nonlocal made
        made = next(asked)
        body = vendor.listing(query.aoi_id, query.offset, query.limit)
        assert body is not None
        return FetchedPage(200, body, parse_listing(body, query.aoi_id), VendorCaching(), clock.now(), clock.now())

    store = MemoryStore(1 << 30, clock, ignore)
    windows = Lookup(store, limits, scope="s", clock=clock, emit=ignore)
    leases, lifetimes = LocalLeases(clock), Lifetimes(settled=3600)
    fetcher = Fetcher(
        store=store, leases=leases, fetch=fetch, check=ignore, budget=Budgets({}, None, clock),
        limits=limits, lifetimes=lifetimes,
        deadline=15, clock=clock, chance=lambda: 0.0, emit=ignore,
    )  # fmt: skip
    cache = CacheHandler(
        store=store, lookup=windows, fetcher=fetcher, leases=leases, deadline=15, patience=2, prefetch=0,
        chunked_fetch=ChunkedFetch(chunk, windows, fetcher, limits, clock=clock), idle=lambda: True, clock=clock,
        emit=ignore,
    )  # fmt: skip
    for query in reads:
        await cache.answer(query, "r", team="bench")
    await cache.close()
    return made


async def compare_calls() -> None:
    vendor = MockVendor(key="k", aois=0)
    chance = random.Random(4)
    totals = {f"aoi-{number}": chance.randrange(60, 400) for number in range(AOIS)}
    for aoi, total in totals.items():
        vendor.set_assets(aoi, [{"id": f"{aoi}-{number}", "status": "success"} for number in range(total)])
    reads = workload(chance, totals)
    print(f"{len(reads)} requests for windows of {AOIS} listings, {sum(totals.values())} assets in all")
    print(f"{'':>22}  {'vendor calls':>12}  {'ratio':>6}")
    base = 0
    for name, limits, chunk in (
        ("exact pages", NothingLearned(), 0),
        ("windows", PageLimits(), 0),
        ("chunks of 100", PageLimits(), 100),
    ):
        made = await calls(vendor, reads, limits, chunk)
        base = base or made
        print(f"{name:>22}  {made:>12}  {made / base:>6.2f}", flush=True)


def cpu(pid: int) -> float:
    """Seconds of CPU that the main thread of a process has used, which is where its loop runs."""
    return int(Path(f"/proc/{pid}/schedstat").read_text(encoding="ascii").split()[0]) / 1e9


async def compare_cost() -> None:
    vendor = MockVendor(key=VENDOR_KEY)
    await vendor.start()
    aoi = vendor.aoi_ids[0]
    vendor._catalogue.set_count(aoi, 1900)
    environ = {
        "GATEWAY_UPSTREAM__BASE_URL": vendor.url,
        "GATEWAY_UPSTREAM__API_KEY": VENDOR_KEY,
        "GATEWAY_CACHE__LIFETIMES__SETTLED": "3600",
        "GATEWAY_SERVER__REPLAY": "false",
        "GATEWAY_LOG__ACCESS": "false",
    }
    process = spawn("serve", "--port", "0", environ=environ)
    try:
        found = await asyncio.to_thread(process.wait_for, r"listening.*http://127\.0\.0\.1:(\d+)")
        url = f"http://127.0.0.1:{found[1]}/v0/aois/{aoi}/assets"
        async with aiohttp.ClientSession(auto_decompress=False) as session:
            await measure(session, url, process.process.pid)
    finally:
        process.end()
        await vendor.stop()


async def measure(session: aiohttp.ClientSession, url: str, pid: int) -> None:
    async def ask(offset: int, limit: int, expected: str) -> None:
        async with session.get(f"{url}?offset={offset}&limit={limit}") as response:
            await response.read()
            told = response.headers["Cache-Status"]
            assert told.startswith(f"pixxel-gateway; {expected}"), told

    # Two pages that share one asset, so that windows are cut from either or joined from both; and a page of its own.
    await ask(0, 1000, "fwd=miss")
    await ask(999, 900, "fwd=miss")
    await ask(1800, 100, "fwd=miss")
    fresh = count(0)
    ways: dict[str, Callable[[], int]] = {
        "the page itself": lambda: 1800,
        "a window again": lambda: 100,
        "a joined window again": lambda: 950,
        "windows at first": lambda: next(fresh),
    }
    costs: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, offset in ways.items():
            before = cpu(pid)
            for _ in range(REQUESTS):
                await ask(offset(), 100, "hit")
            costs[name].append((cpu(pid) - before) / REQUESTS)
    base = statistics.median(costs["the page itself"])
    print(f"{'':>22}  {'CPU a request':>13}  {'ratio':>6}")
    for name, found in costs.items():
        cost = statistics.median(found)
        print(f"{name:>22}  {cost * 1e6:>10.0f} us  {cost / base:>6.2f}")


def main() -> None:
    asyncio.run(compare_calls())
    print()
    asyncio.run(compare_cost())


if __name__ == "__main__":
    main()
