"""Asking the vendor for aligned chunks of a listing, whatever window a client wants (`cache.chunk`).

A chunk has one asset more than the distance to the next, and that one asset proves the seam: any window is put
together from neighbours, and a crawl with one page size pays for all of them. Where chunks turn out to be no use,
because the vendor prints pages that cannot be put together or forbids to store them, pages are fetched as they were
asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gateway.cache.fetcher import Fetcher, FetchRequest, FetchResult, SharedResult
from gateway.cache.lookup import Lookup, LookupResult
from gateway.cache.page_limits import PageLimits
from gateway.cache.page_template import Pagination
from gateway.cache.windows import end_of
from gateway.core.clock import Clock
from gateway.core.errors import UpstreamRefusal, UpstreamTimeout, UpstreamTooLarge
from gateway.core.query import AssetsQuery
from gateway.storage.entry import Entry
from gateway.storage.listing_index import ListingIndex

# A window that needs more chunks than this is fetched as it was asked for: one request must not become many.
_MOST_CHUNKS = 3
# As often it is tried anew, because the listing turned out to be longer or another one, or was purged.
_ROUNDS = 3
# So long, in seconds, chunks are not tried again where they were no use; and for so many listings at most.
_NO_USE_SECONDS = 60.0
_MOST_LISTINGS = 10_000


class ChunkedFetch:
    """Fetches windows as aligned chunks of `chunk` assets plus one; 0 disables it."""

    def __init__(self, chunk: int, lookup: Lookup, fetcher: Fetcher, limits: PageLimits, *, clock: Clock) -> None:
        self._chunk = chunk
        self._lookup = lookup
        self._fetcher = fetcher
        self._limits = limits
        self._clock = clock
        self._unusable: dict[tuple[str, str], float] = {}

    def chunks_of(self, query: AssetsQuery, found: LookupResult) -> list[AssetsQuery]:
        """The chunks that would be asked for; none where the page is fetched as it was asked for."""
        if not self._chunk or self._clock.monotonic() < self._unusable.get(_listing(found), -math.inf):
            return []
        index = found.listing_index
        known = index is not None and any(found.now < page.fresh_until for page in index.pages)
        return self._needed(query, index.total if index is not None and known else None)

    async def fetch(self, request: FetchRequest, found: LookupResult) -> SharedResult | None:
        """Fetch the chunks of a window; None if the page has to be fetched as requested.

        Raises as `Fetcher.fetch`.
        """
        every: list[SharedResult] = []
        since = math.inf
        for _ in range(_ROUNDS):
            needed = self.chunks_of(request.query, found)
            wanted = needed if request.forced and not every else self._missing(needed, found, since)
            if not wanted:
                return None
            try:
                every += await asyncio.gather(*(self._fetcher.fetch(self._sent(request, found, one)) for one in wanted))
            except (UpstreamRefusal, UpstreamTooLarge):
                # Nobody asked for so much; it may be well with what was asked for.
                self._mark_unusable(found)
                return None
            except UpstreamTimeout:
                self._mark_unusable(found)
                raise
            for one in every:
                if one.result.entry.status == 404:
                    return one
            since = min(one.result.entry.started for one in every)
            found, entry = await self._lookup.find_fetched(request.query, since, only=request.forced)
            if entry is not None:
                return _combined(entry, every)
            if self._are_unusable(wanted, every[-len(wanted) :], found):
                self._mark_unusable(found)
                return None
        return None

    @staticmethod
    def _missing(needed: list[AssetsQuery], found: LookupResult, since: float) -> list[AssetsQuery]:
        index = found.listing_index
        if index is None or index.total is None:
            return needed  # a 404 is found where it was left
        return [one for one in needed if not _is_fresh(index, one, found.now, since)]

    @staticmethod
    def _are_unusable(asked: list[AssetsQuery], results: Sequence[SharedResult], found: LookupResult) -> bool:
        """Return whether no chunk of this listing can be used: they may not be stored, or have no template.

        How an empty page is printed shows nothing, and what was purged or overtaken is tried again.
        """
        total = None if found.listing_index is None else found.listing_index.total
        return any(
            not one.result.storable
            or (one.result.stored and not one.result.entry.template and (total is None or query.offset < total))
            for query, one in zip(asked, results, strict=True)
        )

    def _needed(self, query: AssetsQuery, total: int | None) -> list[AssetsQuery]:
        printed = self._limits.effective(self._chunk + 1)
        size = self._chunk if printed is None else min(self._chunk, printed - 1)
        limit = self._limits.effective(query.limit)
        # A limit of which nothing is known can be learned from a chunk that is longer; else only by asking for it.
        if size < 1 or (limit is None and query.limit > size + 1):
            return []
        first = last = query.offset // size
        if total is not None:
            end = end_of(Pagination(total, query.offset, limit or query.limit))
            last = max(first, -(-(end - 1) // size) - 1)
            if query.offset >= total:
                return []  # only a page from there tells how the vendor prints an empty one
        if last - first >= _MOST_CHUNKS:
            return []
        return [query.window(number * size, size + 1) for number in range(first, last + 1)]

    def _sent(self, request: FetchRequest, found: LookupResult, chunk: AssetsQuery) -> FetchRequest:
        known = None if found.listing_index is None else found.listing_index.page(chunk.offset, chunk.limit)
        address = self._lookup.address(chunk)
        return replace(
            request,
            query=chunk,
            address=address,
            epoch=found.epoch,
            known_since=-math.inf if known is None else known.started,
        )

    def _mark_unusable(self, found: LookupResult) -> None:
        if len(self._unusable) >= _MOST_LISTINGS:
            self._unusable.clear()
        self._unusable[_listing(found)] = self._clock.monotonic() + _NO_USE_SECONDS


def _listing(found: LookupResult) -> tuple[str, str]:
    return found.address.listing, found.epoch


def _is_fresh(index: ListingIndex, chunk: AssetsQuery, now: float, since: float) -> bool:
    seen = index.page(chunk.offset, chunk.limit)
    return seen is not None and (now < seen.fresh_until or seen.started >= since)


def _combined(entry: Entry, results: Sequence[SharedResult]) -> SharedResult:
    """Return a window as one result: fetched by this replica if any of its chunks was."""
    ways = {one.result.fetched_by for one in results}
    asked: Literal["here", "elsewhere", "nobody"] = (
        "here" if "here" in ways else "elsewhere" if "elsewhere" in ways else "nobody"
    )
    return SharedResult(
        FetchResult(entry, asked, window=True), collapsed=bool(results) and all(one.collapsed for one in results)
    )
