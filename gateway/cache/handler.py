"""Answer a request for a page: look up, decide, then serve, refresh or fetch.

`lookup` finds what is stored, and `policy` decides what may be done with it. `fetcher` fetches pages, and `chunks`
does so in aligned chunks where `cache.chunk` is set. This module shows the order of the steps, and what a client gets
if one fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

from gateway.cache.chunks import ChunkedFetch
from gateway.cache.fetcher import Fetcher, FetchRequest, NotStoredReason, SharedResult
from gateway.cache.lookup import Lookup, LookupResult
from gateway.cache.policy import Fetch, Serve, ServeAndRefresh
from gateway.cache.prefetch import Prefetcher
from gateway.core.clock import Clock
from gateway.core.errors import NotCached, UpstreamError, UpstreamRefusal, UpstreamTimeout
from gateway.core.events import CacheAnswered, CacheResult, Emit, Purged, Tier, purge_scope
from gateway.core.query import AssetsQuery
from gateway.storage.base import Store
from gateway.storage.entry import Entry
from gateway.storage.redis.leases import FetchLeases

# How often one page may be refreshed because a client says so, in seconds.
FORCED_REFRESH_INTERVAL = 10.0


Reason = Literal["miss", "stale", "request"]


@dataclass(frozen=True, slots=True)
class CacheDirectives:
    """What the client asked for besides the page: a refresh, or nothing that is not stored."""

    refresh: bool = False
    only_if_cached: bool = False


NO_DIRECTIVES = CacheDirectives()


@dataclass(frozen=True, slots=True)
class Forward:
    """Why the vendor was asked for this answer, and what came of it. `status` is None when nothing came in time.

    `elsewhere` tells that another replica asked, `not_stored_because` why the page was not stored, `error` what failed.
    """

    reason: Reason
    status: int | None = None
    stored: bool = False
    collapsed: bool = False
    failed: bool = False
    elsewhere: bool = False
    not_stored_because: NotStoredReason | None = None
    error: type[Exception] | None = None


class CacheAnswer(NamedTuple):
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
    lookup: LookupResult | None = None
    tier: Tier = "memory"
    too_soon: bool = False


class CacheHandler:
    """Answers queries from the store or from the vendor.

    `deadline` and `patience` are the seconds that a request waits for the vendor: in all, and where an old page is at
    hand. `prefetch` pages are fetched ahead of a client that crawls, while `idle` says that no call is under way.
    """

    def __init__(
        self,
        *,
        store: Store,
        lookup: Lookup,
        fetcher: Fetcher,
        chunked_fetch: ChunkedFetch,
        leases: FetchLeases,
        deadline: float,
        patience: float,
        prefetch: int,
        idle: Callable[[], bool],
        clock: Clock,
        emit: Emit,
    ) -> None:
        self._store = store
        self._lookup = lookup
        self._fetcher = fetcher
        self._chunked_fetch = chunked_fetch
        self._leases = leases
        self._deadline = deadline
        self._patience = patience
        self._clock = clock
        self._emit = emit
        self.prefetch = Prefetcher(lookup, self._prefetch, pages=prefetch, idle=idle)

    async def answer(
        self, query: AssetsQuery, request_id: str, directives: CacheDirectives = NO_DIRECTIVES, *, team: str
    ) -> CacheAnswer:
        """Answer one query of a team.

        Raises UpstreamError when the vendor failed and no old page may be served, UpstreamRefusal when it refused the
        query itself, NotCached when the client wanted a stored answer and there is none, LimitReached when the team may
        not have the vendor asked now.
        """
        answer = await self._answer(query, request_id, directives, team)
        self._emit(CacheAnswered(answer.result))
        served_well = answer.result not in ("stale_if_error", "bypass") and answer.entry.status == 200
        if served_well and not directives.only_if_cached:
            self.prefetch.note(query, request_id, team)
        return answer

    def peek(self, query: AssetsQuery) -> Entry | None:
        """What a request for this would be answered with now: fresh, and in this process; None if that takes asking."""
        found = self._lookup.peek(query)
        return None if found is None else _fallback(found)

    def names(self, query: AssetsQuery, entry: Entry) -> tuple[str, str]:
        """What is used by an answer with this entry."""
        return entry.key, self._lookup.address(query).listing

    def touch(self, names: Iterable[str]) -> None:
        """Count a use of these, where nobody has looked them up."""
        self._store.touch(names)

    async def lookup(self, query: AssetsQuery) -> LookupResult:
        """What there is for a query now, for who asks why there was no answer."""
        return await self._lookup.find(query)

    async def purge(self, aoi_id: str | None, *, soft: bool = False) -> None:
        """End what is cached of an AOI, or (None) of all, for good. Raises StoreDown when Redis did not confirm it.

        After a `soft` purge it is still served while the vendor fails.
        """
        await self._store.purge(aoi_id, soft=soft)
        self._emit(Purged(purge_scope(aoi_id, soft=soft)))

    async def close(self) -> None:
        """End the fetches under way."""
        await self.prefetch.close()
        await self._fetcher.close()

    async def _answer(self, query: AssetsQuery, request_id: str, directives: CacheDirectives, team: str) -> CacheAnswer:
        found = await self._lookup.find(query)
        forced = directives.refresh and not directives.only_if_cached
        if forced:
            if await self._may_force(query, found):
                request = _fetch_request(query, found, request_id, team, forced=True)
                return await self._fetch_and_answer(request, found, "request", fallback=_fallback(found) is not None)
            found = await self._lookup.find(query)  # it may have been purged while we asked
            return (await self._act_on_decision(query, found, request_id, directives, team))._replace(too_soon=True)
        return await self._act_on_decision(query, found, request_id, directives, team)

    async def _act_on_decision(
        self, query: AssetsQuery, found: LookupResult, request_id: str, directives: CacheDirectives, team: str
    ) -> CacheAnswer:
        match found.decision:
            case Serve() as fresh:
                return _hit(fresh, found.now, found, found.tier, window=bool(found.sources))
            case ServeAndRefresh(entry):
                self._refresh(_fetch_request(query, found, request_id, team), found)
                return CacheAnswer(entry, "stale", found.now, window=bool(found.sources), lookup=found, tier=found.tier)
            case Fetch() if directives.only_if_cached:
                raise NotCached
            case Fetch(fallback, expired):
                request = _fetch_request(query, found, request_id, team)
                reason: Reason = "stale" if expired else "miss"
                return await self._fetch_and_answer(request, found, reason, fallback=fallback is not None)

    async def _may_force(self, query: AssetsQuery, found: LookupResult) -> bool:
        """Whether no page that would be fetched for this query was fetched of late because a client said so."""
        pages = [self._lookup.address(page).page for page in self._chunked_fetch.chunks_of(query, found)]
        firsts = [
            await self._leases.claim(f"forced:{page}", FORCED_REFRESH_INTERVAL)
            for page in pages or [found.address.page]
        ]
        return any(firsts)

    def _refresh(self, request: FetchRequest, found: LookupResult) -> None:
        """Refresh what is in grace in the background: the page, or those that its window was cut from."""
        if not found.sources:
            self._fetcher.refresh(request)
        for source in found.sources:
            if found.now >= source.fresh_until:
                query = request.query.window(source.offset, source.limit)
                address = self._lookup.address(query)
                self._fetcher.refresh(replace(request, query=query, address=address, known_since=source.started))

    async def _fetch_and_answer(
        self, request: FetchRequest, found: LookupResult, reason: Reason, *, fallback: bool
    ) -> CacheAnswer:
        """Join the flight of this page, or begin it; `fallback` tells that an old page may be at hand."""
        began = self._clock.monotonic()
        follows = self._fetcher.under_way(request)
        try:
            # With an old page at hand nobody waits longer than `patience`; the flight goes on and is stored.
            async with asyncio.timeout(self._patience if fallback else self._deadline):
                result, collapsed = await self._fetch(request, found)
        except (UpstreamError, TimeoutError) as error:
            status = error.status if isinstance(error, UpstreamError) else None
            waited = self._clock.monotonic() - began
            # Whatever was at hand when the wait began: it may have been purged meanwhile.
            left = await self._lookup.find(request.query) if fallback else None
            if left is not None and (old := _fallback(left)) is not None:
                forward = Forward(reason, status=status, failed=True, error=type(error))
                now = self._clock.now()
                return CacheAnswer(old, "stale_if_error", now, forward, waited, lookup=left, tier=left.tier)
            if isinstance(error, TimeoutError) and fallback:
                # It ran out, or was purged, while we waited; what is left is to wait like everybody else.
                return await self._fetch_and_answer(request, found, reason, fallback=False)
            self._emit(CacheAnswered(_result(Forward(reason, stored=True, collapsed=follows))))
            raise error if isinstance(error, UpstreamError) else UpstreamTimeout("the deadline has passed") from None
        except UpstreamRefusal:
            self._emit(CacheAnswered("bypass"))
            raise
        now, waited = self._clock.now(), self._clock.monotonic() - began
        if result.fetched_by == "nobody":
            return _hit(Serve(result.entry), now, found, result.tier, window=result.window)
        elsewhere = result.fetched_by == "elsewhere"
        forward = Forward(
            reason,
            result.entry.status,
            result.stored,
            collapsed or elsewhere,
            elsewhere=elsewhere,
            not_stored_because=result.not_stored_because,
        )
        return CacheAnswer(result.entry, _result(forward), now, forward, waited, lookup=found)

    async def _fetch(self, request: FetchRequest, found: LookupResult) -> SharedResult:
        """The page as it was asked for, or a window of chunks that are fetched instead."""
        return await self._chunked_fetch.fetch(request, found) or await self._fetcher.fetch(request)

    async def _prefetch(self, query: AssetsQuery, found: LookupResult, request_id: str, team: str) -> None:
        await self._fetch(_fetch_request(query, found, request_id, team), found)


def _fetch_request(
    query: AssetsQuery, found: LookupResult, request_id: str, team: str, *, forced: bool = False
) -> FetchRequest:
    return FetchRequest(query, found.address, found.epoch, found.known_since, request_id, team, forced)


def _fallback(found: LookupResult) -> Entry | None:
    """What may be served if the vendor fails."""
    match found.decision:
        case Serve(entry) | ServeAndRefresh(entry):
            return entry
        case Fetch(fallback):
            return fallback


def _hit(fresh: Serve, now: float, found: LookupResult, tier: Tier, *, window: bool) -> CacheAnswer:
    """An answer without the vendor."""
    entry = fresh.entry
    result: CacheResult = "negative" if entry.status == 404 else "window" if window else "hit"
    return CacheAnswer(entry, result, now, window=window, lookup=found, tier=tier)


def _result(forward: Forward) -> CacheResult:
    if forward.reason == "request":
        return "refresh"
    if forward.collapsed:
        return "coalesced"
    return "miss" if forward.stored else "bypass"
