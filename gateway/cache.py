"""The request story: look up, decide, and serve, refresh or fetch.

What may be done with an entry is decided in `core.policy`, where it is kept by a Store, how the vendor is asked by the
`fetch` that is handed in. This file only tells in which order, and what a client is given when something fails.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from gateway.clock import Clock
from gateway.core.admission import Candidate, Fetched, admit
from gateway.core.entry import Entry
from gateway.core.errors import NotCached, StoreDown, UpstreamError, UpstreamRefusal, UpstreamTimeout
from gateway.core.facts import (
    CacheAnswered,
    CacheResult,
    GenerationEnded,
    Observe,
    Purged,
    UpstreamFellShort,
    VendorForbidsStoring,
)
from gateway.core.options import Lifetimes
from gateway.core.policy import Fetch, Serve, ServeAndRefresh, decide
from gateway.core.query import Address, AssetsQuery
from gateway.flights.lease import Turns
from gateway.flights.local import Flights
from gateway.stores.base import Shelf, Store, filed

# How often one page may be refreshed because a client says so, in seconds.
FORCED_REFRESH_INTERVAL = 10.0

# Fetch a page of the vendor: the query, the request id that the vendor is told, and a deadline on the monotonic clock.
# Raises UpstreamError or UpstreamRefusal.
FetchPage = Callable[[AssetsQuery, str, float], Awaitable[Fetched]]


Reason = Literal["miss", "stale", "request"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client asked for besides the page: a refresh, or nothing that is not stored."""

    refresh: bool = False
    only_if_cached: bool = False


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Forward:
    """Why the vendor was asked for this answer, and what came of it. `status` is None when nothing came in time."""

    reason: Reason
    status: int | None = None
    stored: bool = False
    collapsed: bool = False
    failed: bool = False


@dataclass(frozen=True, slots=True)
class Answer:
    """What the client gets: an entry as it stood at `now` (Unix time), and how it came about.

    `waited` is the time in seconds that this request waited for the vendor, None when it did not.
    """

    entry: Entry
    result: CacheResult
    now: float
    forward: Forward | None = None
    waited: float | None = None


@dataclass(frozen=True, slots=True)
class _Errand:
    """What a flight is sent for. It began under a purge epoch, when the copy at hand was one fetched at `seen`."""

    query: AssetsQuery
    address: Address
    epoch: str
    seen: float
    request_id: str
    forced: bool = False

    @property
    def name(self) -> str:
        """The flight's name. It has the epoch, so that no request joins a flight from before a purge."""
        return f"{self.address.page}@{self.epoch}"


@dataclass(frozen=True, slots=True)
class _Landed:
    """What a flight brought: an entry, and whether the vendor was asked for it here, by another replica, or not at all.

    `stored` tells that others will be served with it too.
    """

    entry: Entry
    asked: Literal["here", "elsewhere", "nobody"]
    stored: bool = True


class Cache:
    """Answers queries from the store or from the vendor; `scope` tells vendors and accounts apart in keys.

    `deadline` and `patience` are the seconds that a request waits for the vendor: in all, and where an old page is at
    hand.
    """

    def __init__(
        self,
        *,
        store: Store,
        turns: Turns,
        fetch: FetchPage,
        scope: str,
        lifetimes: Lifetimes,
        deadline: float,
        patience: float,
        clock: Clock,
        chance: Callable[[], float],
        observe: Observe,
    ) -> None:
        self._store = store
        self._turns = turns
        self._fetch = fetch
        self._scope = scope
        self._lifetimes = lifetimes
        self._deadline = deadline
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._observe = observe
        self._flights: Flights[_Landed] = Flights()

    async def answer(self, query: AssetsQuery, request_id: str, wish: Wish = NO_WISH) -> Answer:
        """Answer one query.

        Raises UpstreamError when the vendor failed and no old page may be served, UpstreamRefusal when it refused the
        query itself, NotCached when the client wanted a stored answer and there is none.
        """
        address = query.address(self._scope)
        shelf = await self._look_up(address)
        now = self._clock.now()
        seen = -math.inf if shelf.entry is None else shelf.entry.started
        errand = _Errand(query, address, shelf.epoch, seen, request_id)
        forced = wish.refresh and not wish.only_if_cached
        if forced and await self._turns.first(f"forced:{address.page}", FORCED_REFRESH_INTERVAL):
            return await self._ask_vendor(replace(errand, forced=True), "request", fallback=shelf.entry is not None)
        match decide(shelf.entry, now, current=shelf.current):
            case Serve(entry):
                return self._answered(Answer(entry, _hit(entry), now))
            case ServeAndRefresh(entry):
                self._flights.join(errand.name, partial(self._fly, errand))
                return self._answered(Answer(entry, "stale", now))
            case Fetch() if wish.only_if_cached:
                raise NotCached
            case Fetch(fallback, expired):
                return await self._ask_vendor(errand, "stale" if expired else "miss", fallback=fallback is not None)

    async def purge(self, aoi_id: str | None) -> None:
        """End what is cached of an AOI, or (None) of all, for good. Raises StoreDown when Redis did not confirm it."""
        await self._store.purge(aoi_id)
        self._observe(Purged("all" if aoi_id is None else "aoi"))

    async def close(self) -> None:
        """End the fetches under way."""
        await self._flights.close()

    async def _look_up(self, address: Address) -> Shelf:
        try:
            return await self._store.look_up(address)
        except StoreDown:
            return Shelf("", None, None)  # the vendor still has the page

    async def _ask_vendor(self, errand: _Errand, reason: Reason, *, fallback: bool) -> Answer:
        """Join the flight of this page, or begin it; `fallback` tells that an old page may be at hand."""
        flight, leads = self._flights.join(errand.name, partial(self._fly, errand))
        forward = Forward(reason, collapsed=not leads)
        began = self._clock.monotonic()
        try:
            # With an old page at hand nobody waits longer than `patience`; the flight goes on and is stored.
            async with asyncio.timeout(self._patience if fallback else self._deadline):
                landed = await asyncio.shield(flight)
        except (UpstreamError, TimeoutError) as error:
            status = error.status if isinstance(error, UpstreamError) else None
            waited = self._clock.monotonic() - began
            old = await self._fallback(errand.address) if fallback else None
            if old is not None:
                forward = replace(forward, status=status, failed=True)
                return self._answered(Answer(old, "stale_if_error", self._clock.now(), forward, waited))
            if isinstance(error, TimeoutError) and fallback:
                # It ran out, or was purged, while we waited; what is left is to wait like everybody else.
                return await self._ask_vendor(errand, reason, fallback=False)
            self._observe(CacheAnswered(self._result(replace(forward, stored=True))))
            raise error if isinstance(error, UpstreamError) else UpstreamTimeout("the deadline has passed") from None
        except UpstreamRefusal:
            self._observe(CacheAnswered("bypass"))
            raise
        now, waited = self._clock.now(), self._clock.monotonic() - began
        if landed.asked == "nobody":
            return self._answered(Answer(landed.entry, _hit(landed.entry), now))
        collapsed = forward.collapsed or landed.asked == "elsewhere"
        forward = replace(forward, status=landed.entry.status, stored=landed.stored, collapsed=collapsed)
        return self._answered(Answer(landed.entry, self._result(forward), now, forward, waited))

    async def _fallback(self, address: Address) -> Entry | None:
        """The old page that may be served now, whatever was at hand when the wait began: it may have been purged."""
        shelf = await self._look_up(address)
        match decide(shelf.entry, self._clock.now(), current=shelf.current):
            case Serve(entry) | ServeAndRefresh(entry):
                return entry
            case Fetch(fallback):
                return fallback

    @staticmethod
    def _result(forward: Forward) -> CacheResult:
        if forward.reason == "request":
            return "refresh"
        if forward.collapsed:
            return "coalesced"
        return "miss" if forward.stored else "bypass"

    async def _fly(self, errand: _Errand) -> _Landed:
        """Bring one page: fetched by this replica if it is its turn, else by the one whose turn it was."""
        deadline = self._clock.monotonic() + self._deadline
        waited = False
        while True:
            async with self._turns.take(errand.name) as turn:
                if turn.failure is not None:
                    raise turn.failure
                found = await self._found(errand, waited=waited or not turn.mine)
                if found is not None:
                    return found
                if turn.mine:
                    try:
                        return await self._fetched(errand, deadline)
                    except (UpstreamError, UpstreamRefusal) as error:
                        turn.failure = error
                        raise
            if self._clock.monotonic() >= deadline:
                raise UpstreamTimeout("another replica is still fetching it")
            waited = True

    async def _found(self, errand: _Errand, *, waited: bool) -> _Landed | None:
        """Look once more: the page may have been stored a moment ago (see `Flights`), or by who had the turn.

        What another replica has just fetched is good enough for those who waited for it, however short it lives.
        """
        shelf = await self._look_up(errand.address)
        entry = shelf.entry
        if entry is None or not shelf.current:
            return None
        newer = entry.started > errand.seen
        fresh = isinstance(decide(entry, self._clock.now()), Serve)
        if (fresh and not errand.forced) or (newer and waited):
            return _Landed(entry, "elsewhere" if waited else "nobody")
        return None

    async def _fetched(self, errand: _Errand, deadline: float) -> _Landed:
        try:
            fetched = await self._fetch(errand.query, errand.request_id, deadline)
        except UpstreamError as error:
            self._observe(UpstreamFellShort(type(error).__name__, str(error)))
            raise
        candidate = admit(errand.query, errand.address.page, fetched, self._lifetimes, self._chance())
        if not fetched.caching.storable:
            self._observe(VendorForbidsStoring())
            return _Landed(await self._named(errand, candidate), "here", stored=False)
        try:
            kept = await self._store.keep(errand.address, candidate, errand.epoch)
        except StoreDown:
            return _Landed(await self._named(errand, candidate), "here", stored=False)
        if kept.ended:
            self._observe(GenerationEnded())
        return _Landed(kept.entry, "here", stored=kept.outcome == "kept")

    async def _named(self, errand: _Errand, candidate: Candidate) -> Entry:
        """The entry of a page that is not kept, named after the generation that it would belong to."""
        known = (await self._look_up(errand.address)).directory
        return filed(errand.address, known, candidate, errand.epoch, self._clock.now())[1]

    def _answered(self, answer: Answer) -> Answer:
        self._observe(CacheAnswered(answer.result))
        return answer


def _hit(entry: Entry) -> CacheResult:
    return "negative" if entry.status == 404 else "hit"
