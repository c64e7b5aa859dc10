"""The request story: look up, decide, and serve, refresh or fetch.

What there is for a query is found by `windows`, and what may be done with it is decided in `core.policy`. Pages are
brought by `errands`, or by `stretches` where those are wanted. This file only tells in which order, and what a client
is given when something fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from gateway.cache.chunks import Stretches
from gateway.cache.fetcher import Brought, Errand, Errands, Unkept
from gateway.cache.lookup import Found, Windows
from gateway.cache.policy import Fetch, Serve, ServeAndRefresh
from gateway.cache.prefetch import Prefetch
from gateway.core.clock import Clock
from gateway.core.errors import NotCached, UpstreamError, UpstreamRefusal, UpstreamTimeout
from gateway.core.events import CacheAnswered, CacheResult, Emit, Purged, Tier, purge_scope
from gateway.core.query import AssetsQuery
from gateway.storage.base import Store
from gateway.storage.entry import Entry
from gateway.storage.redis.leases import Turns

# How often one page may be refreshed because a client says so, in seconds.
FORCED_REFRESH_INTERVAL = 10.0


Reason = Literal["miss", "stale", "request"]


@dataclass(frozen=True, slots=True)
class Wish:
    """What the client asked for besides the page: a refresh, or nothing that is not stored."""

    refresh: bool = False
    only_if_cached: bool = False


NO_WISH = Wish()


@dataclass(frozen=True, slots=True)
class Forward:
    """Why the vendor was asked for this answer, and what came of it. `status` is None when nothing came in time.

    `elsewhere` tells that another replica asked, `unkept` why the page was not stored, `error` what failed.
    """

    reason: Reason
    status: int | None = None
    stored: bool = False
    collapsed: bool = False
    failed: bool = False
    elsewhere: bool = False
    unkept: Unkept | None = None
    error: type[Exception] | None = None


class Answer(NamedTuple):
    """What the client gets: an entry as it stood at `now` (Unix time), and how it came about.

    `window` tells that a hit was cut from other pages. `waited` is the time in seconds that this request waited for the
    vendor, None when it did not. `found` is what there was to decide about, `tier` where the entry was; `too_soon`
    tells that a refresh was wished for and not granted.
    """

    entry: Entry
    result: CacheResult
    now: float
    forward: Forward | None = None
    waited: float | None = None
    window: bool = False
    found: Found | None = None
    tier: Tier = "memory"
    too_soon: bool = False


class Cache:
    """Answers queries from the store or from the vendor.

    `deadline` and `patience` are the seconds that a request waits for the vendor: in all, and where an old page is at
    hand. `prefetch` pages are fetched ahead of a client that crawls, while `idle` says that no call is under way.
    """

    def __init__(
        self,
        *,
        store: Store,
        windows: Windows,
        errands: Errands,
        stretches: Stretches,
        turns: Turns,
        deadline: float,
        patience: float,
        prefetch: int,
        idle: Callable[[], bool],
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._store = store
        self._windows = windows
        self._errands = errands
        self._stretches = stretches
        self._turns = turns
        self._deadline = deadline
        self._patience = patience
        self._clock = clock
        self._emit = emit
        self.prefetch = Prefetch(windows, self._bring_ahead, pages=prefetch, idle=idle)

    async def answer(self, query: AssetsQuery, request_id: str, wish: Wish = NO_WISH, *, team: str) -> Answer:
        """Answer one query of a team.

        Raises UpstreamError when the vendor failed and no old page may be served, UpstreamRefusal when it refused the
        query itself, NotCached when the client wanted a stored answer and there is none, LimitReached when the team may
        not have the vendor asked now.
        """
        answer = await self._answer(query, request_id, wish, team)
        self._emit(CacheAnswered(answer.result))
        served_well = answer.result not in ("stale_if_error", "bypass") and answer.entry.status == 200
        if served_well and not wish.only_if_cached:
            self.prefetch.note(query, request_id, team)
        return answer

    def at_hand(self, query: AssetsQuery) -> Entry | None:
        """What a request for this would be answered with now: fresh, and in this process; None if that takes asking."""
        found = self._windows.at_hand(query)
        return None if found is None else _old(found)

    def names(self, query: AssetsQuery, entry: Entry) -> tuple[str, str]:
        """What is used by an answer with this entry."""
        return entry.key, self._windows.address(query).listing

    def use(self, names: Iterable[str]) -> None:
        """Count a use of these, where nobody has looked them up."""
        self._store.use(names)

    async def look(self, query: AssetsQuery) -> Found:
        """What there is for a query now, for who asks why there was no answer."""
        return await self._windows.find(query)

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """End what is cached of an AOI, or (None) of all, for good. Raises StoreDown when Redis did not confirm it.

        After a `soft` purge it is still served while the vendor fails.
        """
        await self._store.purge(aoi_id, soft=soft)
        self._emit(Purged(purge_scope(aoi_id, soft=soft)))

    async def close(self) -> None:
        """End the fetches under way."""
        await self.prefetch.close()
        await self._errands.close()

    async def _answer(self, query: AssetsQuery, request_id: str, wish: Wish, team: str) -> Answer:
        found = await self._windows.find(query)
        forced = wish.refresh and not wish.only_if_cached
        if forced:
            if await self._may_force(query, found):
                errand = _errand(query, found, request_id, team, forced=True)
                return await self._ask_vendor(errand, found, "request", fallback=_old(found) is not None)
            found = await self._windows.find(query)  # it may have been purged while we asked
            return (await self._decided(query, found, request_id, wish, team))._replace(too_soon=True)
        return await self._decided(query, found, request_id, wish, team)

    async def _decided(self, query: AssetsQuery, found: Found, request_id: str, wish: Wish, team: str) -> Answer:
        match found.decision:
            case Serve() as fresh:
                return _hit(fresh, found.now, found, found.tier, window=bool(found.sources))
            case ServeAndRefresh(entry):
                self._refresh(_errand(query, found, request_id, team), found)
                return Answer(entry, "stale", found.now, window=bool(found.sources), found=found, tier=found.tier)
            case Fetch() if wish.only_if_cached:
                raise NotCached
            case Fetch(fallback, expired):
                errand = _errand(query, found, request_id, team)
                reason: Reason = "stale" if expired else "miss"
                return await self._ask_vendor(errand, found, reason, fallback=fallback is not None)

    async def _may_force(self, query: AssetsQuery, found: Found) -> bool:
        """Whether no page that would be fetched for this query was fetched of late because a client said so."""
        pages = [self._windows.address(page).page for page in self._stretches.of(query, found)]
        firsts = [
            await self._turns.first(f"forced:{page}", FORCED_REFRESH_INTERVAL) for page in pages or [found.address.page]
        ]
        return any(firsts)

    def _refresh(self, errand: Errand, found: Found) -> None:
        """Refresh what is in grace in the background: the page, or those that its window was cut from."""
        if not found.sources:
            self._errands.refresh(errand)
        for source in found.sources:
            if found.now >= source.fresh_until:
                query = errand.query.window(source.offset, source.limit)
                address = self._windows.address(query)
                self._errands.refresh(replace(errand, query=query, address=address, seen=source.started))

    async def _ask_vendor(self, errand: Errand, found: Found, reason: Reason, *, fallback: bool) -> Answer:
        """Join the flight of this page, or begin it; `fallback` tells that an old page may be at hand."""
        began = self._clock.monotonic()
        follows = self._errands.under_way(errand)
        try:
            # With an old page at hand nobody waits longer than `patience`; the flight goes on and is stored.
            async with asyncio.timeout(self._patience if fallback else self._deadline):
                landed, collapsed = await self._bring(errand, found)
        except (UpstreamError, TimeoutError) as error:
            status = error.status if isinstance(error, UpstreamError) else None
            waited = self._clock.monotonic() - began
            # Whatever was at hand when the wait began: it may have been purged meanwhile.
            left = await self._windows.find(errand.query) if fallback else None
            if left is not None and (old := _old(left)) is not None:
                forward = Forward(reason, status=status, failed=True, error=type(error))
                now = self._clock.now()
                return Answer(old, "stale_if_error", now, forward, waited, found=left, tier=left.tier)
            if isinstance(error, TimeoutError) and fallback:
                # It ran out, or was purged, while we waited; what is left is to wait like everybody else.
                return await self._ask_vendor(errand, found, reason, fallback=False)
            self._emit(CacheAnswered(_result(Forward(reason, stored=True, collapsed=follows))))
            raise error if isinstance(error, UpstreamError) else UpstreamTimeout("the deadline has passed") from None
        except UpstreamRefusal:
            self._emit(CacheAnswered("bypass"))
            raise
        now, waited = self._clock.now(), self._clock.monotonic() - began
        if landed.asked == "nobody":
            return _hit(Serve(landed.entry), now, found, landed.tier, window=landed.window)
        elsewhere = landed.asked == "elsewhere"
        forward = Forward(
            reason,
            landed.entry.status,
            landed.stored,
            collapsed or elsewhere,
            elsewhere=elsewhere,
            unkept=landed.unkept,
        )
        return Answer(landed.entry, _result(forward), now, forward, waited, found=found)

    async def _bring(self, errand: Errand, found: Found) -> Brought:
        """The page as it was asked for, or a window of stretches that the vendor is asked for instead."""
        return await self._stretches.bring(errand, found) or await self._errands.bring(errand)

    async def _bring_ahead(self, query: AssetsQuery, found: Found, request_id: str, team: str) -> None:
        await self._bring(_errand(query, found, request_id, team), found)


def _errand(query: AssetsQuery, found: Found, request_id: str, team: str, *, forced: bool = False) -> Errand:
    return Errand(query, found.address, found.epoch, found.seen, request_id, team, forced)


def _old(found: Found) -> Entry | None:
    """What may be served if the vendor fails."""
    match found.decision:
        case Serve(entry) | ServeAndRefresh(entry):
            return entry
        case Fetch(fallback):
            return fallback


def _hit(fresh: Serve, now: float, found: Found, tier: Tier, *, window: bool) -> Answer:
    """An answer without the vendor."""
    entry = fresh.entry
    result: CacheResult = "negative" if entry.status == 404 else "window" if window else "hit"
    return Answer(entry, result, now, window=window, found=found, tier=tier)


def _result(forward: Forward) -> CacheResult:
    if forward.reason == "request":
        return "refresh"
    if forward.collapsed:
        return "coalesced"
    return "miss" if forward.stored else "bypass"
