"""Fetch the next pages for a client that crawls a listing."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress

from gateway.cache.crawl_detection import CRAWL_PAGES, CrawlDetector, Position
from gateway.cache.lookup import Lookup, LookupResult
from gateway.cache.policy import Fetch
from gateway.core.errors import LimitReached, UpstreamError, UpstreamRefusal
from gateway.core.query import AssetsQuery

# Where a team is, and where it would be next.
Trail = tuple[Position, Position]
# Fetch what was not found for a query, with a request id and for a team. Raises UpstreamError, UpstreamRefusal or
# LimitReached.
FetchMissing = Callable[[AssetsQuery, LookupResult, str, str], Awaitable[object]]


class Prefetcher:
    """Fetches up to `pages` pages ahead, charged to the team that crawls, while `idle` says that the vendor is idle."""

    def __init__(self, lookup: Lookup, bring: FetchMissing, *, pages: int, idle: Callable[[], bool]) -> None:
        self._lookup = lookup
        self._fetch_missing = bring
        self._pages = pages
        self._idle = idle
        self._detector = CrawlDetector()
        self._under_way: set[asyncio.Task[None]] = set()

    @property
    def under_way(self) -> bool:
        """Whether something is being fetched ahead."""
        return bool(self._under_way)

    def note(self, query: AssetsQuery, request_id: str, team: str) -> None:
        """Note what a team asked for, and fetch ahead if it crawls."""
        if self._pages > 0:
            trail = self.trail(query, team)
            if self.follow(trail):
                self.prefetch(query, request_id, trail)

    def trail(self, query: AssetsQuery, team: str) -> Trail:
        """Where a team is that asks this, and where it would be next."""
        here = (team, query.aoi_id, query.filters, query.limit, query.offset)
        return here, (*here[:4], query.offset + self._lookup.page_step(query))

    def follow(self, trail: Trail) -> bool:
        """Note where a team is. Whether it crawls, so that what comes next is worth fetching ahead."""
        return self._pages > 0 and self._detector.follow(*trail) >= CRAWL_PAGES

    def prefetch(self, query: AssetsQuery, request_id: str, trail: Trail) -> None:
        """Fetch what comes next on a trail, as far as it is not there."""
        if not self._idle():
            return
        total, step = self._lookup.total(query) or 0, trail[1][4] - query.offset
        ahead = (query.offset + step * number for number in range(1, self._pages + 1))
        pages = [query.window(offset, query.limit) for offset in ahead if offset < total]
        pages = [page for page in pages if not self._lookup.is_cached(page)]
        if pages:
            task = asyncio.create_task(self._fetch(pages, request_id, trail[0][0]))
            self._under_way.add(task)
            task.add_done_callback(self._under_way.discard)

    async def close(self) -> None:
        """End what is under way."""
        for task in self._under_way:
            task.cancel()
        await asyncio.gather(*self._under_way, return_exceptions=True)

    async def _fetch(self, pages: list[AssetsQuery], request_id: str, team: str) -> None:
        # No request waits for the result, and failures of the vendor were logged where they happened.
        with suppress(UpstreamError, UpstreamRefusal, LimitReached):
            for query in pages:
                if self._idle():
                    found = await self._lookup.find(query)
                    if isinstance(found.decision, Fetch):
                        await self._fetch_missing(query, found, request_id, team)
