"""Asking the vendor for aligned stretches of a listing, whatever window a client wants (`cache.chunk`).

A stretch has one asset more than the distance to the next, and that one asset proves the seam: any window is put
together from neighbours, and a crawl with one page size pays for all of them. Where stretches turn out to be no use,
because the vendor prints pages that cannot be put together or forbids to store them, pages are fetched as they were
asked for.
"""

from __future__ import annotations

import asyncio
import math
from collections.abc import Sequence
from dataclasses import replace
from typing import Literal

from gateway.cache.fetcher import Brought, Errand, Errands, Landed
from gateway.cache.lookup import Found, Windows
from gateway.cache.page_limits import Limits
from gateway.cache.page_template import Figures
from gateway.cache.windows import end_of
from gateway.core.clock import Clock
from gateway.core.errors import UpstreamRefusal, UpstreamTimeout, UpstreamTooLarge
from gateway.core.query import AssetsQuery
from gateway.storage.entry import Entry
from gateway.storage.listing_index import Directory

# A window that needs more stretches than this is fetched as it was asked for: one request must not become many.
_MOST_STRETCHES = 3
# As often it is tried anew, because the listing turned out to be longer or another one, or was purged.
_ROUNDS = 3
# So long, in seconds, stretches are not tried again where they were no use; and for so many listings at most.
_NO_USE_SECONDS = 60.0
_MOST_LISTINGS = 10_000


class Stretches:
    """Brings windows by way of stretches of `chunk` assets plus one; 0 means never."""

    def __init__(self, chunk: int, windows: Windows, errands: Errands, limits: Limits, *, clock: Clock) -> None:
        self._chunk = chunk
        self._windows = windows
        self._errands = errands
        self._limits = limits
        self._clock = clock
        self._no_use: dict[tuple[str, str], float] = {}

    def of(self, query: AssetsQuery, found: Found) -> list[AssetsQuery]:
        """The stretches that would be asked for; none where the page is fetched as it was asked for."""
        if not self._chunk or self._clock.monotonic() < self._no_use.get(_listing(found), -math.inf):
            return []
        directory = found.directory
        known = directory is not None and any(found.now < page.fresh_until for page in directory.pages)
        return self._needed(query, directory.total if directory is not None and known else None)

    async def bring(self, errand: Errand, found: Found) -> Brought | None:
        """Bring the window; None where it has to be fetched as it was asked for. Raises what `Errands.bring` raises."""
        every: list[Brought] = []
        since = math.inf
        for _ in range(_ROUNDS):
            needed = self.of(errand.query, found)
            wanted = needed if errand.forced and not every else self._missing(needed, found, since)
            if not wanted:
                return None
            try:
                every += await asyncio.gather(*(self._errands.bring(self._sent(errand, found, one)) for one in wanted))
            except (UpstreamRefusal, UpstreamTooLarge):
                # Nobody asked for so much; it may be well with what was asked for.
                self._note_no_use(found)
                return None
            except UpstreamTimeout:
                self._note_no_use(found)
                raise
            for one in every:
                if one.landed.entry.status == 404:
                    return one
            since = min(one.landed.entry.started for one in every)
            found, entry = await self._windows.fetched(errand.query, since, only=errand.forced)
            if entry is not None:
                return _together(entry, every)
            if self._are_no_use(wanted, every[-len(wanted) :], found):
                self._note_no_use(found)
                return None
        return None

    @staticmethod
    def _missing(needed: list[AssetsQuery], found: Found, since: float) -> list[AssetsQuery]:
        directory = found.directory
        if directory is None or directory.total is None:
            return needed  # a 404 is found where it was left
        return [one for one in needed if not _is_fresh(directory, one, found.now, since)]

    @staticmethod
    def _are_no_use(asked: list[AssetsQuery], brought: Sequence[Brought], found: Found) -> bool:
        """Whether these stretches show that none of this listing will do: they may not be kept, or have no mould.

        How an empty page is printed shows nothing, and what was purged or overtaken is tried again.
        """
        total = None if found.directory is None else found.directory.total
        return any(
            not one.landed.storable
            or (one.landed.stored and not one.landed.entry.mould and (total is None or query.offset < total))
            for query, one in zip(asked, brought, strict=True)
        )

    def _needed(self, query: AssetsQuery, total: int | None) -> list[AssetsQuery]:
        printed = self._limits.printed(self._chunk + 1)
        size = self._chunk if printed is None else min(self._chunk, printed - 1)
        limit = self._limits.printed(query.limit)
        # A limit of which nothing is known can be learned from a stretch that is longer; else only by asking for it.
        if size < 1 or (limit is None and query.limit > size + 1):
            return []
        first = last = query.offset // size
        if total is not None:
            end = end_of(Figures(total, query.offset, limit or query.limit))
            last = max(first, -(-(end - 1) // size) - 1)
            if query.offset >= total:
                return []  # only a page from there tells how the vendor prints an empty one
        if last - first >= _MOST_STRETCHES:
            return []
        return [query.window(number * size, size + 1) for number in range(first, last + 1)]

    def _sent(self, errand: Errand, found: Found, stretch: AssetsQuery) -> Errand:
        known = None if found.directory is None else found.directory.seen(stretch.offset, stretch.limit)
        address = self._windows.address(stretch)
        return replace(
            errand,
            query=stretch,
            address=address,
            epoch=found.epoch,
            seen=-math.inf if known is None else known.started,
        )

    def _note_no_use(self, found: Found) -> None:
        if len(self._no_use) >= _MOST_LISTINGS:
            self._no_use.clear()
        self._no_use[_listing(found)] = self._clock.monotonic() + _NO_USE_SECONDS


def _listing(found: Found) -> tuple[str, str]:
    return found.address.listing, found.epoch


def _is_fresh(directory: Directory, stretch: AssetsQuery, now: float, since: float) -> bool:
    seen = directory.seen(stretch.offset, stretch.limit)
    return seen is not None and (now < seen.fresh_until or seen.started >= since)


def _together(entry: Entry, brought: Sequence[Brought]) -> Brought:
    """A window as one thing that was brought: by this replica if any stretch was."""
    ways = {one.landed.asked for one in brought}
    asked: Literal["here", "elsewhere", "nobody"] = (
        "here" if "here" in ways else "elsewhere" if "elsewhere" in ways else "nobody"
    )
    return Brought(Landed(entry, asked, window=True), collapsed=bool(brought) and all(one.collapsed for one in brought))
