"""What the store has for a query: the page itself, or a window cut from others of its listing.

`core.windows` knows how windows are put together, and `core.limits` what was learned of the vendor's limits. This file
asks the store for what they need: the listing's directory tells which pages there are, so that Redis is asked at most
twice, and not at all where memory has the pages.
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
from gateway.storage.base import NO_SHELF, Shelf, Store, found_in
from gateway.storage.entry import Entry
from gateway.storage.listing_index import Directory, Sight

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
    directory: Directory | None
    known_since: float
    sources: tuple[Sight, ...] = ()
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
            found, shelf = await self._look(query, address)
            if shelf is None or self._store.stands(address, shelf):
                return found
        # Something has changed each time while its pages were read: none of them is known to be right.
        return found._replace(
            decision=Fetch(None, expired=False), directory=None, known_since=-math.inf, sources=(), exact=None
        )

    async def _look(self, query: AssetsQuery, address: Address) -> tuple[LookupResult, Shelf | None]:
        """What there is, and the shelf that it is from if something was awaited since that was right."""
        shelf = self._store.glance(address)
        if shelf is not None and shelf.entry is None:
            found = self._from_memory(query, address, shelf)
            if found is not None:
                self._emit(TierLookup("memory", "hit"))
                return found, None
            shelf = None
        elif shelf is not None:
            self._emit(TierLookup("memory", "hit"))
        if shelf is None:
            try:
                shelf = await self._store.ask(address)
            except StoreDown:
                shelf = NO_SHELF
        now = self._clock.now()
        current = shelf.current
        exact = decide(shelf.entry, now, current=current)
        seen = -math.inf if shelf.entry is None else shelf.entry.started
        found = LookupResult(
            exact, now, address, shelf.epoch, shelf.directory, seen, tier=shelf.tier, exact=shelf.entry, current=current
        )
        planned = None if isinstance(exact, Serve) else self._plan(query, shelf.directory, now)
        if planned is None or _as_good(exact, planned.state):
            return found, None
        entry = self._in_memory(query, address, planned, shelf)
        if entry is not None:
            return found._replace(decision=_decision(planned.state, entry), sources=planned.pages), None
        entry = await self._from_redis(query, address, planned, shelf)
        if entry is None:
            return found, shelf
        found = found._replace(decision=_decision(planned.state, entry), sources=planned.pages, tier="redis")
        return found, shelf

    def peek(self, query: AssetsQuery) -> LookupResult | None:
        """What `find` would find, where that is fresh and in this process; None where it would have to ask."""
        address = query.address(self._scope)
        shelf = self._store.glance(address)
        if shelf is None:
            return None
        now = self._clock.now()
        exact = decide(shelf.entry, now, current=shelf.current)
        if isinstance(exact, Serve):
            return LookupResult(exact, now, address, shelf.epoch, shelf.directory, exact.entry.started)
        return self._from_memory(query, address, shelf)

    async def find_fetched(self, query: AssetsQuery, since: float, *, only: bool) -> tuple[LookupResult, Entry | None]:
        """What there is after fetches that began at `since` (Unix time) or later: a window of their pages, if they do.

        Their pages count as fresh however short they live, and no others do where `only` those are wanted.
        """
        address = query.address(self._scope)
        shelf = await found_in(self._store, address)
        now = self._clock.now()
        found = LookupResult(Fetch(None, expired=False), now, address, shelf.epoch, shelf.directory, -math.inf)
        planned = self._plan(query, shelf.directory, now, since=since, only=only)
        if planned is None or planned.state != "fresh":
            return found, None
        entry = self._in_memory(query, address, planned, shelf)
        if entry is None:
            entry = await self._from_redis(query, address, planned, shelf)
            if not self._store.stands(address, shelf):
                return found, None
        return found, entry

    def is_cached(self, query: AssetsQuery) -> bool | None:
        """Whether a query would be answered without the vendor, as far as this process knows (None: it does not).

        Nothing counts as used by that.
        """
        directory = self._store.directory(self.address(query))
        if directory is None:
            return None
        now = self._clock.now()
        exact = directory.seen(query.offset, query.limit)
        if exact is not None and now < exact.grace_until:
            return True
        planned = self._plan(query, directory, now)
        return planned is not None and planned.state != "kept"

    def page_step(self, query: AssetsQuery) -> int:
        """How many assets the vendor sends for this query's limit, as far as is known."""
        return self._page_limits.effective(query.limit) or query.limit

    def total(self, query: AssetsQuery) -> int | None:
        """How many assets the listing has; None where that is not known in this process."""
        directory = self._store.directory(self.address(query))
        return None if directory is None else directory.total

    def address(self, query: AssetsQuery) -> Address:
        """Where the page of a query is kept."""
        return query.address(self._scope)

    def _from_memory(self, query: AssetsQuery, address: Address, shelf: Shelf) -> LookupResult | None:
        """A fresh window whose pages are all in this process, unless a fresh page is known to be elsewhere."""
        now, directory = self._clock.now(), shelf.directory
        exact = None if directory is None else directory.seen(query.offset, query.limit)
        if directory is None or (exact is not None and now < exact.fresh_until):
            return None
        planned = self._plan(query, directory, now)
        if planned is None or planned.state != "fresh":
            return None
        entry = self._in_memory(query, address, planned, shelf)
        if entry is None:
            return None
        return LookupResult(Serve(entry), now, address, shelf.epoch, directory, -math.inf, planned.pages)

    def _plan(
        self,
        query: AssetsQuery,
        directory: Directory | None,
        now: float,
        *,
        since: float = math.inf,
        only: bool = False,
    ) -> WindowPlan | None:
        if directory is None or not directory.moulded:
            return None
        for asked, printed, count, started in directory.limits_seen:
            self._page_limits.learn(asked, printed, count, started)
        limit = self._page_limits.effective(query.limit)
        planned = None if limit is None else plan(directory, query.offset, limit, now, since=since, only=only)
        if planned is None or not self._page_limits.has_sent(end_of(planned.pagination) - query.offset):
            return None
        return planned

    def _pages(self, query: AssetsQuery, planned: WindowPlan) -> list[str]:
        return [self.address(query.window(source.offset, source.limit)).page for source in planned.pages]

    async def _from_redis(
        self, query: AssetsQuery, address: Address, planned: WindowPlan, shelf: Shelf
    ) -> Entry | None:
        """The window, if Redis has all its pages, and what is known of limits still holds."""
        contradictions = self._page_limits.contradictions
        with suppress(StoreDown):
            pages = await self._store.read(address, self._pages(query, planned), shelf.epoch)
            if contradictions == self._page_limits.contradictions:
                return self._slice(address, planned, shelf, pages)
        return None

    def _in_memory(self, query: AssetsQuery, address: Address, planned: WindowPlan, shelf: Shelf) -> Entry | None:
        """The window if it was made before, or if all its pages are in this process."""
        made = self._store.copies([planned.name(address.page)], shelf.epoch)
        if made is not None:
            return made[0]
        return self._slice(address, planned, shelf, self._store.copies(self._pages(query, planned), shelf.epoch))

    def _slice(self, address: Address, planned: WindowPlan, shelf: Shelf, entries: list[Entry] | None) -> Entry | None:
        """Cut the window, if these are the very pages that were planned with, and hold it for who asks next."""
        if entries is None or shelf.directory is None:
            return None
        for source, entry in zip(planned.pages, entries, strict=True):
            if entry.started != source.started or not shelf.directory.owns(entry.generation, entry.started):
                return None
        made = slice_window(planned, entries, planned.name(address.page), shelf.directory.generation)
        if made is not None:
            self._store.hold(made)
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
