"""Fetch a page: one fetch in this process, one lease over all replicas, one call, and the result stored.

`handler` decides how long a client waits, and what it gets if a fetch fails.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

from gateway.cache.admission import admit
from gateway.cache.page_limits import PageLimits
from gateway.cache.policy import Serve, decide
from gateway.cache.single_flight import SingleFlight
from gateway.config.options import Lifetimes
from gateway.core.clock import Clock
from gateway.core.errors import (
    LimitReached,
    StoreDown,
    UpstreamCircuitOpen,
    UpstreamError,
    UpstreamOverloaded,
    UpstreamRefusal,
    UpstreamTimeout,
)
from gateway.core.events import Emit, FetchFailed, GenerationEnded, Tier, VendorForbidsStoring
from gateway.core.query import Address, AssetsQuery
from gateway.storage.base import Store, get_or_nothing, unrecorded_entry
from gateway.storage.entry import Entry
from gateway.storage.redis.leases import FetchLeases
from gateway.upstream.classification import FetchedPage

# Fetch a page from the vendor: the query, the request id that is sent along, a deadline in monotonic time, and the team
# that caused it. Raises UpstreamError or UpstreamRefusal.
FetchPage = Callable[[AssetsQuery, str, float, str], Awaitable[FetchedPage]]


# Why a page was not stored: the vendor forbids it or gave it no lifetime, a later fetch showed more, a purge came in
# between, Redis is away.
NotStoredReason = Literal["no-store", "no-lifetime", "older", "purged", "store-down"]


@dataclass(frozen=True, slots=True)
class FetchRequest:
    """A page to fetch, under the purge epoch of the look-up. The known copy was fetched at `known_since` (Unix time).

    It is charged to the miss budget of `team`, whose request caused it: directly, as a refresh in grace, or as a
    prefetch.
    """

    query: AssetsQuery
    address: Address
    epoch: str
    known_since: float
    request_id: str
    team: str
    forced: bool = False

    @property
    def name(self) -> str:
        """The flight's name. It has the epoch, so that no request joins a flight from before a purge."""
        return f"{self.address.page}@{self.epoch}"


@dataclass(frozen=True, slots=True)
class FetchResult:
    """The result of a fetch: an entry, and whether the vendor was called here, by another replica, or not at all.

    `stored` tells that others will be served with it too, `storable` that the vendor has nothing against that, and
    `window` that it was cut from other pages. `not_stored_because` names what kept it from being stored, `tier` is
    where it was found if the vendor was not asked.
    """

    entry: Entry
    fetched_by: Literal["here", "elsewhere", "nobody"]
    stored: bool = True
    storable: bool = True
    window: bool = False
    not_stored_because: NotStoredReason | None = None
    tier: Tier = "memory"


class SharedResult(NamedTuple):
    """The result of a fetch, and whether the request joined a fetch that was in flight (RFC 9211, `collapsed`)."""

    result: FetchResult
    collapsed: bool


class MissBudget(Protocol):
    """The budgets of teams for requests to the vendor."""

    async def miss(self, team: str) -> None:
        """Charge one request to a team. Raises LimitReached."""
        ...

    def refund_miss(self, team: str) -> None:
        """Return the token of a request that was not sent."""
        ...

    def may_miss(self, team: str) -> bool:
        """Return whether a request might be admitted, without waiting."""
        ...


class Fetcher:
    """Fetch pages; each fetch may take `deadline` seconds.

    `check` raises the UpstreamError that is certain to come of asking the vendor now, if there is one.
    """

    def __init__(
        self,
        *,
        store: Store,
        leases: FetchLeases,
        fetch: FetchPage,
        check: Callable[[AssetsQuery], None],
        budget: MissBudget,
        limits: PageLimits,
        lifetimes: Lifetimes,
        deadline: float,
        clock: Clock,
        chance: Callable[[], float],
        emit: Emit,
    ) -> None:
        self._store = store
        self._leases = leases
        self._fetch_page = fetch
        self._check = check
        self._budget = budget
        self._limits = limits
        self.lifetimes = lifetimes
        self._deadline = deadline
        self._clock = clock
        self._chance = chance
        self._emit = emit
        self._flights: SingleFlight[FetchResult] = SingleFlight()

    def under_way(self, request: FetchRequest) -> bool:
        """Return whether a fetch of this page is in flight."""
        return request.name in self._flights

    def begin(self, request: FetchRequest) -> tuple[asyncio.Task[FetchResult], bool]:
        """The flight of this page, begun if there is none; the flag tells whether this call began it.

        Await it through `asyncio.shield`: it goes on, and is stored, whoever leaves.
        """
        return self._flights.join(request.name, partial(self._run, request))

    async def fetch(self, request: FetchRequest) -> SharedResult:
        """Wait for the page, however it comes. Raises UpstreamError, or UpstreamRefusal, as the flight did.

        Raises LimitReached when it is this team that would have to pay.
        """
        while True:
            flight, leads = self.begin(request)
            try:
                return SharedResult(await asyncio.shield(flight), collapsed=not leads)
            except LimitReached as error:
                if leads or error.team == request.team:
                    raise
                # Who began the flight cannot pay for it, and who joined it may.

    def refresh(self, request: FetchRequest) -> None:
        """Begin the flight of this page in the background, unless the miss budget of the team is exhausted."""
        if not self._budget.may_miss(request.team):
            return
        flight, leads = self.begin(request)
        if not leads:
            flight.add_done_callback(partial(self._refresh_instead, request))

    def _refresh_instead(self, request: FetchRequest, flight: asyncio.Task[FetchResult]) -> None:
        """Refresh the page after the fetch of another team was refused by that team's miss budget."""
        error = None if flight.cancelled() else flight.exception()
        if isinstance(error, LimitReached) and error.team != request.team:
            self.refresh(request)

    async def close(self) -> None:
        """End the flights under way."""
        await self._flights.close()

    async def _run(self, request: FetchRequest) -> FetchResult:
        """Fetch one page: this replica if it has the lease, else the replica that has it."""
        deadline = self._clock.monotonic() + self._deadline
        waited = False
        while True:
            self._check(request.query)  # before it is our turn, which is better somebody else's then
            async with self._leases.acquire(request.name) as turn:
                if turn.failure is not None:
                    raise turn.failure
                found = await self._found(request, waited=waited or not turn.acquired)
                if found is not None:
                    return found
                if turn.acquired:
                    self._check(request.query)  # again: a fetch that will not be made is not charged
                    await self._budget.miss(request.team)
                    try:
                        return await self._fetched(request, deadline)
                    except (UpstreamError, UpstreamRefusal) as error:
                        # What keeps this replica from asking need not keep the others, and no request was sent.
                        if isinstance(error, UpstreamCircuitOpen | UpstreamOverloaded):
                            self._budget.refund_miss(request.team)
                        else:
                            turn.failure = error
                        raise
            if self._clock.monotonic() >= deadline:
                raise UpstreamTimeout("another replica is still fetching it")
            waited = True

    async def _found(self, request: FetchRequest, *, waited: bool) -> FetchResult | None:
        """Look it up again: it may have been stored a moment ago (see `SingleFlight`), or by the holder of the lease.

        What another replica has just fetched is good enough for those who waited for it, however short it lives.
        """
        stored = await get_or_nothing(self._store, request.address)
        entry = stored.entry
        if entry is None or not stored.is_current:
            return None
        newer = entry.started > request.known_since
        fresh = isinstance(decide(entry, self._clock.now()), Serve)
        if (fresh and not request.forced) or (newer and waited):
            asked: Literal["elsewhere", "nobody"] = "elsewhere" if waited else "nobody"
            if entry.last_use <= self._clock.now():
                return FetchResult(entry, asked, stored=False, not_stored_because="no-lifetime", tier=stored.tier)
            return FetchResult(entry, asked, tier=stored.tier)
        return None

    async def _fetched(self, request: FetchRequest, deadline: float) -> FetchResult:
        proof = self._store.proof()
        try:
            fetched = await self._fetch_page(request.query, request.request_id, deadline, request.team)
        except UpstreamError as error:
            self._emit(FetchFailed(type(error).__name__, str(error)))
            raise
        candidate = admit(request.query, request.address.page, fetched, self.lifetimes, self._chance())
        shown = candidate.record
        if shown.shows_limit(candidate.total):
            self._limits.learn(shown.limit, shown.effective_limit, shown.end - shown.offset, shown.started)
        if not fetched.caching.storable:
            self._emit(VendorForbidsStoring())
            self._store.note_fetch(request.address, candidate, proof)
            named = unrecorded_entry(candidate, request.epoch)
            return FetchResult(named, "here", stored=False, storable=False, not_stored_because="no-store")
        try:
            kept = await self._store.put(request.address, candidate, request.epoch, proof)
        except StoreDown:
            return FetchResult(
                unrecorded_entry(candidate, request.epoch), "here", stored=False, not_stored_because="store-down"
            )
        if kept.ended:
            self._emit(GenerationEnded())
        if kept.outcome != "kept":
            return FetchResult(kept.entry, "here", stored=False, not_stored_because=kept.outcome)
        if kept.entry.last_use <= fetched.arrived:
            # The store knows now what the page shows of its listing, but nobody will be served with the page itself.
            return FetchResult(kept.entry, "here", stored=False, not_stored_because="no-lifetime")
        return FetchResult(kept.entry, "here")
