"""Find the page of a query in the store, or cut a window from other pages of its listing.

`windows` plans windows and cuts them, with the limits that `page_limits` has learned. The listing's index names the
pages that there are, so Redis is asked at most twice, and not at all if memory has the pages.
"""

from __future__ import annotations

import math
from contextlib import suppress
from typing import Literal, NamedTuple

from gateway.cache.page_limits import PageLimits
from gateway.cache.policy import Decision, Fetch, Serve, ServeAndRefresh, decide
from gateway.cache.windows import State, WindowPlan, end_of, plan, slice_window
from gateway.core.clock import Clock
from gateway.core.errors import StoreDown
from gateway.core.events import Emit, Tier, TierLookup
from gateway.core.query import Address, AssetsQuery
from gateway.storage.base import NOTHING_STORED, Store, StoreResult, get_or_nothing
from gateway.storage.entry import Entry
from gateway.storage.listing_index import ListingIndex, PageRecord

# A look-up during which something changed is made again, at most this often in all.
_TRIES = 3


class LookupResult(NamedTuple):
    """What there is for a query at `now` (Unix time), under its address and purge epoch, and what may be done with it.

    `seen` is when the fetch of the page itself began, minus infinity where there is none. `sources` are the pages that
    the decision's entry was cut from, none where it is the page itself. `tier` is where the entry was, `exact` the page
    itself whatever its state, and `current` whether its generation is.
    """

    decision: Decision
    now: float
    address: Address
    epoch: str
    listing_index: ListingIndex | None
    known_since: float
    sources: tuple[PageRecord, ...] = ()
    tier: Tier = "memory"
    exact: Entry | None = None
    current: bool = True

    @property
    def lack(self) -> Literal["absent", "expired", "superseded"] | None:
        """What is wrong with what there is; None where it may be served."""
        if not isinstance(self.decision, Fetch):
            return None
        if not self.decision.expired:
            return "absent"
        return "expired" if self.current or self.exact is None else "superseded"


class Lookup:
    """Finds pages and windows in a store; `scope` tells vendors and accounts apart in keys."""

    def __init__(self, store: Store, limits: PageLimits, *, scope: str, clock: Clock, emit: Emit) -> None:
        self._store = store
        self._page_limits = limits
        self._scope = scope
        self._clock = clock
        self._emit = emit

    async def find(self, query: AssetsQuery) -> LookupResult:
        """The best there is for a query: fresh page, fresh window, page in grace, window in grace, or what is kept."""
        address = query.address(self._scope)
        for _ in range(_TRIES):
            found, stored = await self._look(query, address)
            if stored is None or self._store.is_current(address, stored):
                return found
        # Something has changed each time while its pages were read: none of them is known to be right.
        return found._replace(
            decision=Fetch(None, expired=False), listing_index=None, known_since=-math.inf, sources=(), exact=None
        )

    async def _look(self, query: AssetsQuery, address: Address) -> tuple[LookupResult, StoreResult | None]:
        """Return what is found, and the result of the store that it is based on if something was awaited since."""
        stored = self._store.peek(address)
        if stored is not None and stored.entry is None:
            found = self._from_memory(query, address, stored)
            if found is not None:
                self._emit(TierLookup("memory", "hit"))
                return found, None
            stored = None
        elif stored is not None:
            self._emit(TierLookup("memory", "hit"))
        if stored is None:
            try:
                stored = await self._store.get_remote(address)
            except StoreDown:
                stored = NOTHING_STORED
        now = self._clock.now()
        current = stored.is_current
        exact = decide(stored.entry, now, current=current)
        seen = -math.inf if stored.entry is None else stored.entry.started
        found = LookupResult(
            exact,
            now,
            address,
            stored.epoch,
            stored.listing_index,
            seen,
            tier=stored.tier,
            exact=stored.entry,
            current=current,
        )
        planned = None if isinstance(exact, Serve) else self._plan(query, stored.listing_index, now)
        if planned is None or _as_good(exact, planned.state):
            return found, None
        entry = self._in_memory(query, address, planned, stored)
        if entry is not None:
            return found._replace(decision=_decision(planned.state, entry), sources=planned.pages), None
        entry = await self._from_redis(query, address, planned, stored)
        if entry is None:
            return found, stored
        found = found._replace(decision=_decision(planned.state, entry), sources=planned.pages, tier="redis")
        return found, stored

    def peek(self, query: AssetsQuery) -> LookupResult | None:
        """What `find` would find, where that is fresh and in this process; None where it would have to ask."""
        address = query.address(self._scope)
        stored = self._store.peek(address)
        if stored is None:
            return None
        now = self._clock.now()
        exact = decide(stored.entry, now, current=stored.is_current)
        if isinstance(exact, Serve):
            return LookupResult(exact, now, address, stored.epoch, stored.listing_index, exact.entry.started)
        return self._from_memory(query, address, stored)

    async def find_fetched(self, query: AssetsQuery, since: float, *, only: bool) -> tuple[LookupResult, Entry | None]:
        """What there is after fetches that began at `since` (Unix time) or later: a window of their pages, if they do.

        Their pages count as fresh however short they live, and no others do where `only` those are wanted.
        """
        address = query.address(self._scope)
        stored = await get_or_nothing(self._store, address)
        now = self._clock.now()
        found = LookupResult(Fetch(None, expired=False), now, address, stored.epoch, stored.listing_index, -math.inf)
        planned = self._plan(query, stored.listing_index, now, since=since, only=only)
        if planned is None or planned.state != "fresh":
            return found, None
        entry = self._in_memory(query, address, planned, stored)
        if entry is None:
            entry = await self._from_redis(query, address, planned, stored)
            if not self._store.is_current(address, stored):
                return found, None
        return found, entry

    def is_cached(self, query: AssetsQuery) -> bool | None:
        """Whether a query would be answered without the vendor, as far as this process knows (None: it does not).

        Nothing counts as used by that.
        """
        index = self._store.index(self.address(query))
        if index is None:
            return None
        now = self._clock.now()
        exact = index.page(query.offset, query.limit)
        if exact is not None and now < exact.grace_until:
            return True
        planned = self._plan(query, index, now)
        return planned is not None and planned.state != "kept"

    def page_step(self, query: AssetsQuery) -> int:
        """How many assets the vendor sends for this query's limit, as far as is known."""
        return self._page_limits.effective(query.limit) or query.limit

    def total(self, query: AssetsQuery) -> int | None:
        """How many assets the listing has; None where that is not known in this process."""
        index = self._store.index(self.address(query))
        return None if index is None else index.total

    def address(self, query: AssetsQuery) -> Address:
        """Where the page of a query is kept."""
        return query.address(self._scope)

    def _from_memory(self, query: AssetsQuery, address: Address, stored: StoreResult) -> LookupResult | None:
        """A fresh window whose pages are all in this process, unless a fresh page is known to be elsewhere."""
        now, index = self._clock.now(), stored.listing_index
        exact = None if index is None else index.page(query.offset, query.limit)
        if index is None or (exact is not None and now < exact.fresh_until):
            return None
        planned = self._plan(query, index, now)
        if planned is None or planned.state != "fresh":
            return None
        entry = self._in_memory(query, address, planned, stored)
        if entry is None:
            return None
        return LookupResult(Serve(entry), now, address, stored.epoch, index, -math.inf, planned.pages)

    def _plan(
        self,
        query: AssetsQuery,
        index: ListingIndex | None,
        now: float,
        *,
        since: float = math.inf,
        only: bool = False,
    ) -> WindowPlan | None:
        if index is None or not index.sliceable:
            return None
        for asked, printed, count, started in index.limit_observations:
            self._page_limits.learn(asked, printed, count, started)
        limit = self._page_limits.effective(query.limit)
        planned = None if limit is None else plan(index, query.offset, limit, now, since=since, only=only)
        if planned is None or not self._page_limits.has_sent(end_of(planned.pagination) - query.offset):
            return None
        return planned

    def _pages(self, query: AssetsQuery, planned: WindowPlan) -> list[str]:
        return [self.address(query.window(source.offset, source.limit)).page for source in planned.pages]

    async def _from_redis(
        self, query: AssetsQuery, address: Address, planned: WindowPlan, stored: StoreResult
    ) -> Entry | None:
        """The window, if Redis has all its pages, and what is known of limits still holds."""
        contradictions = self._page_limits.contradictions
        with suppress(StoreDown):
            pages = await self._store.get_many(address, self._pages(query, planned), stored.epoch)
            if contradictions == self._page_limits.contradictions:
                return self._slice(address, planned, stored, pages)
        return None

    def _in_memory(
        self, query: AssetsQuery, address: Address, planned: WindowPlan, stored: StoreResult
    ) -> Entry | None:
        """The window if it was made before, or if all its pages are in this process."""
        made = self._store.peek_many([planned.name(address.page)], stored.epoch)
        if made is not None:
            return made[0]
        return self._slice(address, planned, stored, self._store.peek_many(self._pages(query, planned), stored.epoch))

    def _slice(
        self, address: Address, planned: WindowPlan, stored: StoreResult, entries: list[Entry] | None
    ) -> Entry | None:
        """Cut the window, if these are the very pages that were planned with, and hold it for who asks next."""
        if entries is None or stored.listing_index is None:
            return None
        for source, entry in zip(planned.pages, entries, strict=True):
            if entry.started != source.started or not stored.listing_index.owns(entry.generation, entry.started):
                return None
        made = slice_window(planned, entries, planned.name(address.page), stored.listing_index.generation)
        if made is not None:
            self._store.put_local(made)
        return made


def _decision(state: State, entry: Entry) -> Decision:
    match state:
        case "fresh":
            return Serve(entry)
        case "grace":
            return ServeAndRefresh(entry)
        case "kept":
            return Fetch(fallback=entry, expired=True)


def _as_good(exact: Decision, state: State) -> bool:
    """Whether the page itself is to be preferred to a window in this state."""
    match exact:
        case Serve():
            return True
        case ServeAndRefresh():
            return state != "fresh"
        case Fetch(fallback):
            return state == "kept" and fallback is not None
