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

from gateway.clock import Clock
from gateway.core.directory import Directory
from gateway.core.entry import Entry
from gateway.core.limits import Limits
from gateway.core.mould import Figures
from gateway.core.policy import Serve
from gateway.core.query import AssetsQuery
from gateway.core.windows import end_of
from gateway.errands import Brought, Errand, Errands, Landed
from gateway.windows import Found, Windows

# A window that needs more stretches than this is fetched as it was asked for.
_MOST_STRETCHES = 16
# As often it is tried anew, because the listing turned out to be longer or another one.
_ROUNDS = 4
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
        self._no_use: dict[str, float] = {}

    async def bring(self, errand: Errand) -> Brought | None:
        """Bring the window; None where it has to be fetched as it was asked for. Raises what `Errands.bring` raises."""
        listing = errand.address.listing
        if not self._chunk or self._clock.monotonic() < self._no_use.get(listing, -math.inf):
            return None
        every: list[Brought] = []
        since = math.inf
        for _ in range(_ROUNDS):
            found = await self._windows.find(errand.query, since=since)
            afresh = errand.forced and not every
            if isinstance(found.decision, Serve) and not afresh:
                return _together(found.decision.entry, every)
            wanted = self._wanted(errand.query, found, since, afresh=afresh)
            if not wanted:
                break
            brought = await asyncio.gather(*(self._errands.bring(self._sent(errand, found, one)) for one in wanted))
            every += brought
            for one in brought:
                if one.landed.entry.status == 404:
                    return one
            if not all(one.landed.stored for one in brought):
                break
            since = min(one.landed.entry.started for one in every)
        if every:
            self._note_no_use(listing)
        return None

    def _wanted(self, query: AssetsQuery, found: Found, since: float, *, afresh: bool) -> list[AssetsQuery]:
        """The stretches that the window needs and that are not there; of a listing of unknown length the first."""
        needed = self._needed(query, None if found.directory is None else found.directory.total)
        if afresh or found.directory is None or found.directory.total is None:
            return needed  # a 404 is found where it was left
        return [one for one in needed if not _is_fresh(found.directory, one, found.now, since)]

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

    def _note_no_use(self, listing: str) -> None:
        if len(self._no_use) >= _MOST_LISTINGS:
            self._no_use.clear()
        self._no_use[listing] = self._clock.monotonic() + _NO_USE_SECONDS


def _is_fresh(directory: Directory, stretch: AssetsQuery, now: float, since: float) -> bool:
    seen = directory.seen(stretch.offset, stretch.limit)
    return seen is not None and (now < seen.fresh_until or seen.started >= since)


def _together(entry: Entry, brought: Sequence[Brought]) -> Brought:
    """A window as one thing that was brought: by this replica if any stretch was."""
    ways = {one.landed.asked for one in brought}
    asked: Literal["here", "elsewhere", "nobody"] = (
        "here" if "here" in ways else "elsewhere" if "elsewhere" in ways else "nobody"
    )
    return Brought(Landed(entry, asked), collapsed=bool(brought) and all(one.collapsed for one in brought))
