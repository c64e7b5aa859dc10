"""The request story: look up, decide, and serve, refresh or fetch.

What may be done with an entry is decided in `core.policy`, where it is kept by a Store, how the vendor is asked by the
`fetch` that is handed in. This file only tells in which order, and what a client is given when something fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from functools import partial
from typing import Literal

from gateway.clock import Clock
from gateway.core.admission import Fetched, admit
from gateway.core.entry import Entry
from gateway.core.errors import NotCached, StoreDown, UpstreamError, UpstreamRefusal
from gateway.core.facts import CacheAnswered, CacheResult, Observe, UpstreamFellShort, VendorForbidsStoring
from gateway.core.options import Lifetimes
from gateway.core.policy import Fetch, Serve, ServeAndRefresh, decide
from gateway.core.query import AssetsQuery
from gateway.flights.local import Flights
from gateway.stores.base import Store

# How often one page may be refreshed because a client says so, in seconds.
FORCED_REFRESH_INTERVAL = 10.0

# Fetch a page of the vendor: the query, and the request id that the vendor is told. Raises UpstreamError.
FetchPage = Callable[[AssetsQuery, str], Awaitable[Fetched]]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client asked for besides the page: a refresh, or nothing that is not stored."""

    refresh: bool = False
    only_if_cached: bool = False


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Forward:
    """Why the vendor was asked for this answer, and what came of it. `status` is None when nothing came in time."""

    reason: Literal["miss", "stale", "request"]
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
class _Landed:
    """What a flight brought: an entry, from the vendor or (`fetched` False) found when it looked once more."""

    entry: Entry
    fetched: bool
    stored: bool


class Cache:
    """Answers queries from the store or from the vendor; `scope` tells vendors and accounts apart in keys."""

    def __init__(
        self,
        *,
        store: Store,
        fetch: FetchPage,
        scope: str,
        lifetimes: Lifetimes,
        patience: float,
        clock: Clock,
        chance: Callable[[], float],
        observe: Observe,
    ) -> None:
        self._store = store
        self._fetch = fetch
        self._scope = scope
        self._lifetimes = lifetimes
        self._patience = patience
        self._clock = clock
        self._chance = chance
        self._observe = observe
        self._flights: Flights[_Landed] = Flights()
        self._forced: dict[str, float] = {}

    async def answer(self, query: AssetsQuery, request_id: str, wish: Wish = NO_WISH) -> Answer:
        """Answer one query.

        Raises UpstreamError when the vendor failed and no old page may be served, UpstreamRefusal when it refused the
        query itself, NotCached when the client wanted a stored answer and there is none.
        """
        key = query.key(self._scope)
        entry = await self._look_up(key)
        now = self._clock.now()
        decision = decide(entry, now)
        if wish.refresh and self._may_force(key, now):
            return await self._ask_vendor(query, key, request_id, fallback=entry, reason="request")
        match decision:
            case Serve(entry):
                return self._answered(Answer(entry, "negative" if entry.status == 404 else "hit", now))
            case ServeAndRefresh(entry):
                self._flights.join(key, partial(self._fly, query, key, request_id))
                return self._answered(Answer(entry, "stale", now))
            case Fetch() if wish.only_if_cached:
                raise NotCached
            case Fetch(fallback, expired):
                reason: Literal["miss", "stale"] = "stale" if expired else "miss"
                return await self._ask_vendor(query, key, request_id, fallback=fallback, reason=reason)

    async def close(self) -> None:
        """End the fetches under way."""
        await self._flights.close()

    async def _look_up(self, key: str) -> Entry | None:
        try:
            return await self._store.get(key)
        except StoreDown:
            return None  # the vendor still has the page

    async def _ask_vendor(
        self,
        query: AssetsQuery,
        key: str,
        request_id: str,
        *,
        fallback: Entry | None,
        reason: Literal["miss", "stale", "request"],
    ) -> Answer:
        fly = partial(self._fly, query, key, request_id, look_again=reason != "request")
        flight, leads = self._flights.join(key, fly)
        forward = Forward(reason, collapsed=not leads)
        began = self._clock.monotonic()
        try:
            # With an old page at hand nobody waits longer than `patience`; the flight goes on and is stored.
            async with asyncio.timeout(self._patience if fallback else None):
                landed = await asyncio.shield(flight)
        except (UpstreamError, TimeoutError) as error:
            now, waited = self._clock.now(), self._clock.monotonic() - began
            status = error.status if isinstance(error, UpstreamError) else None
            # The fallback was looked up before the wait; whether it may still be served is decided now.
            if fallback is not None and now < fallback.keep_until:
                forward = replace(forward, status=status, failed=True)
                return self._answered(Answer(fallback, "stale_if_error", now, forward, waited))
            if isinstance(error, TimeoutError):
                # It ran out while we waited: what is left is to wait for the vendor like everybody else.
                return await self._ask_vendor(query, key, request_id, fallback=None, reason=reason)
            self._observe(CacheAnswered(self._result(replace(forward, stored=True))))
            raise
        except UpstreamRefusal:
            self._observe(CacheAnswered("bypass"))
            raise
        now, waited = self._clock.now(), self._clock.monotonic() - began
        if not landed.fetched:
            return self._answered(Answer(landed.entry, "hit", now))
        forward = replace(forward, status=landed.entry.status, stored=landed.stored)
        return self._answered(Answer(landed.entry, self._result(forward), now, forward, waited))

    @staticmethod
    def _result(forward: Forward) -> CacheResult:
        if forward.reason == "request":
            return "refresh"
        if forward.collapsed:
            return "coalesced"
        return "miss" if forward.stored else "bypass"

    async def _fly(self, query: AssetsQuery, key: str, request_id: str, *, look_again: bool = True) -> _Landed:
        """Fetch one page and store it, unless somebody did so a moment ago (see `Flights`)."""
        if look_again:
            found = decide(await self._look_up(key), self._clock.now())
            if isinstance(found, Serve):
                return _Landed(found.entry, fetched=False, stored=True)
        try:
            fetched = await self._fetch(query, request_id)
        except UpstreamError as error:
            self._observe(UpstreamFellShort(type(error).__name__, str(error)))
            raise
        entry = admit(query, key, fetched, self._lifetimes, self._chance())
        if not fetched.caching.storable:
            self._observe(VendorForbidsStoring())
            return _Landed(entry, fetched=True, stored=False)
        return _Landed(entry, fetched=True, stored=await self._keep(entry))

    async def _keep(self, entry: Entry) -> bool:
        try:
            await self._store.put(entry)
        except StoreDown:
            return False
        return True

    def _may_force(self, key: str, now: float) -> bool:
        """At most one forced refresh a page in ten seconds, whoever asks."""
        horizon = now - FORCED_REFRESH_INTERVAL
        self._forced = {known: at for known, at in self._forced.items() if at > horizon}
        return self._forced.setdefault(key, now) == now

    def _answered(self, answer: Answer) -> Answer:
        self._observe(CacheAnswered(answer.result))
        return answer
