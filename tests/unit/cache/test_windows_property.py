"""Whatever is asked for, in whatever order, of lists that grow, shrink and are shuffled: what the vendor said once.

The cache is the real one over its memory store; the stand-in vendor is asked without a socket, and is the oracle.
"""

from __future__ import annotations

import asyncio
import json
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from harness import SteeredClock
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gateway.cache.chunks import ChunkedFetch
from gateway.cache.fetcher import Fetcher
from gateway.cache.handler import CacheAnswer, CacheHandler
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

AOI = "a1"
GENEROUS = 1000


@dataclass
class Oracle:
    """A vendor that allows `most` assets a page, and remembers what its list was at each fetch."""

    most: int
    clock: SteeredClock
    vendor: MockVendor = field(default_factory=lambda: MockVendor(key="k"))
    assets: list[dict[str, Any]] = field(default_factory=list)
    states: list[list[dict[str, Any]]] = field(default_factory=list)
    calls: int = 0

    def becomes(self, assets: list[dict[str, Any]]) -> None:
        self.assets = assets
        self.vendor.set_assets(AOI, assets)

    def says(self, query: AssetsQuery) -> bytes:
        body = self.vendor.listing(AOI, query.offset, min(query.limit, self.most))
        assert body is not None
        return body

    async def fetch(self, query: AssetsQuery, *_: object) -> FetchedPage:
        self.calls += 1
        self.states.append(list(self.assets))
        body, now = self.says(query), self.clock.now()
        self.clock.skip(0.01)
        return FetchedPage(200, body, parse_listing(body, AOI), VendorCaching(), now, now)

    def ever_said(self, query: AssetsQuery) -> set[bytes]:
        """What it said, or would have said, for a query at the moment of each fetch."""
        now, said = self.assets, set()
        for state in self.states:
            self.becomes(state)
            said.add(self.says(query))
        self.becomes(now)
        return said


def ignore(_: object) -> None:
    """No sink."""


def build(oracle: Oracle, chunk: int) -> CacheHandler:
    clock, limits = oracle.clock, PageLimits()
    if oracle.most == GENEROUS:
        limits.learn(50, 50, 50, 0.0)  # from another listing
    store = MemoryStore(10_000_000, clock, ignore)
    windows = Lookup(store, limits, scope="s", clock=clock, emit=ignore)
    leases = LocalLeases(clock)
    fetcher = Fetcher(
        store=store, leases=leases, fetch=oracle.fetch, check=ignore, budget=Budgets({}, None, clock),
        limits=limits, lifetimes=Lifetimes(),
        deadline=5, clock=clock, chance=lambda: 0.0, emit=ignore,
    )  # fmt: skip
    return CacheHandler(
        store=store, lookup=windows, fetcher=fetcher, leases=leases,
        chunked_fetch=ChunkedFetch(chunk, windows, fetcher, limits, clock=clock),
        deadline=5, patience=2, prefetch=1, idle=lambda: True, clock=clock, emit=ignore,
    )  # fmt: skip


def born(number: int) -> dict[str, Any]:
    return {"id": f"asset-{number}", "status": "success" if number % 3 else "started"}


def _swapped(assets: list[dict[str, Any]], new: int) -> list[dict[str, Any]]:
    """Two of them in each other's place."""
    if len(assets) < 2:
        return assets
    one, other = new % 10 % len(assets), new // 10 % len(assets)
    moved = list(assets)
    moved[one], moved[other] = assets[other], assets[one]
    return moved


Change = Callable[[list[dict[str, Any]], int], list[dict[str, Any]]]
CHANGES: dict[str, Change] = {
    "grow in front": lambda assets, new: [born(new), *assets],
    "grow at the back": lambda assets, new: [*assets, born(new)],
    "shrink in front": lambda assets, _: assets[1:],
    "shrink at the back": lambda assets, _: assets[:-1],
    "slip": lambda assets, new: [born(new), *assets][: len(assets)],
    "turn round": lambda assets, _: assets[::-1],
    "rotate": lambda assets, _: assets[3:] + assets[:3],
    "swap two": _swapped,
    "replace one": lambda assets, new: [
        born(new) if place == new % len(assets) else asset for place, asset in enumerate(assets)
    ],
    "swap": lambda assets, _: [assets[-1], *assets[1:-1], assets[0]] if len(assets) > 1 else assets,
    "finish": lambda assets, _: [{**asset, "status": "success"} for asset in assets],
}

ASK = st.tuples(st.integers(0, 14), st.integers(1, 9))
WIDE = st.tuples(st.integers(0, 8), st.integers(4, 9))
STEPS = st.lists(
    st.one_of(WIDE, WIDE, ASK, ASK, st.sampled_from([*CHANGES, "a while", "a long while", "purge"])),
    min_size=8,
    max_size=40,
)


def check(oracle: Oracle, query: AssetsQuery, answer: CacheAnswer) -> None:
    """The answer is one that the vendor gave or would have given, or a join without gaps and doubles."""
    if answer.entry.body in oracle.ever_said(query):
        return
    page = json.loads(answer.entry.body)
    total, ids = page["pagination"]["total"], [asset["id"] for asset in page["assets"]]
    assert page["pagination"] == {"total": total, "offset": query.offset, "limit": min(query.limit, oracle.most)}
    assert len(ids) == max(0, min(query.limit, oracle.most, total - query.offset))
    assert len(set(ids)) == len(ids)
    # A join goes over from one state of the list to another only where both have the same asset at the same index.
    states = [state for state in oracle.states if len(state) == total]
    from_here = states
    for place, asset in enumerate(page["assets"], query.offset):
        from_here = [
            state
            for state in states
            if asset == {"aoi_id": AOI, **state[place]}
            and any(state is other or state[place - 1]["id"] == other[place - 1]["id"] for other in from_here)
        ]
        assert from_here, f"what stands at {place} does not follow from what is before it"


@settings(deadline=None, max_examples=120, suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(0, 15),
    most=st.sampled_from([3, 7, GENEROUS, GENEROUS]),
    chunk=st.sampled_from([0, 0, 0, 3, 5]),
    steps=STEPS,
)
def test_every_answer_is_the_vendors(count: int, most: int, chunk: int, steps: list[Any]) -> None:
    asyncio.run(play(count, most, chunk, steps))


PAGE = st.tuples(st.integers(0, 6), st.integers(2, 6))


@settings(deadline=None, max_examples=300, suppress_health_check=list(HealthCheck))
@given(
    count=st.integers(5, 9),
    pages=st.tuples(PAGE, PAGE),
    change=st.builds("{}:{}".format, st.sampled_from(list(CHANGES)), st.integers(0, 99)),
    windows=st.lists(st.tuples(st.integers(0, 3), st.integers(4, 9)), min_size=2, max_size=4),
)
def test_two_fetches_and_a_change_between(count: int, pages: tuple[Any, Any], change: str, windows: list[Any]) -> None:
    one, other = pages
    asyncio.run(play(count, GENEROUS, 0, [one, change, other, *windows]))


async def play(count: int, most: int, chunk: int, steps: list[Any]) -> None:
    oracle = Oracle(most, SteeredClock())
    oracle.becomes([born(number) for number in range(count)])
    cache = build(oracle, chunk)
    shown: dict[str, dict[int, str]] = defaultdict(dict)
    totals: dict[str, int] = {}
    bodies: dict[bytes, str] = {}
    for number, step in enumerate(steps):
        oracle.clock.skip(0.01)
        if isinstance(step, tuple):
            query = AssetsQuery(AOI, *step)
            answer = await cache.answer(query, "r", team=str(number % 2))
            while cache.prefetch._under_way:
                await asyncio.gather(*cache.prefetch._under_way)
            check(oracle, query, answer)
            # One name is one state of the list, and one body one tag, however it came about.
            name, page = answer.entry.generation, json.loads(answer.entry.body)
            assert totals.setdefault(name, page["pagination"]["total"]) == page["pagination"]["total"]
            for place, asset in enumerate(page["assets"], query.offset):
                assert shown[name].setdefault(place, asset["id"]) == asset["id"]
            assert bodies.setdefault(answer.entry.body, answer.entry.etag) == answer.entry.etag
        elif step == "purge":
            oracle.states.clear()
            await cache.purge(None)
        elif (change := step.partition(":"))[0] in CHANGES:
            oracle.becomes(CHANGES[change[0]](oracle.assets, 100 + int(change[2] or number)))
        else:
            oracle.clock.skip(12 if step == "a while" else 2000)
    await cache.close()
