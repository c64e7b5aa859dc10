"""Bringing a page: one flight for it in the process, one turn over all replicas, one fetch, and what is kept of it.

Who waits, for how long, and what a client is given when an errand fails is the cache's business.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from typing import Literal, NamedTuple, Protocol

from gateway.cache.admission import admit
from gateway.cache.page_limits import Limits
from gateway.cache.policy import Serve, decide
from gateway.cache.single_flight import Flights
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
from gateway.storage.base import Store, found_in, unfiled
from gateway.storage.entry import Entry
from gateway.storage.redis.leases import Turns
from gateway.upstream.classification import FetchedPage

# Fetch a page from the vendor: the query, the request id that is sent along, a deadline in monotonic time, and the team
# that caused it. Raises UpstreamError or UpstreamRefusal.
FetchPage = Callable[[AssetsQuery, str, float, str], Awaitable[FetchedPage]]


# Why a page was not stored: the vendor forbids it or gave it no lifetime, a later fetch showed more, a purge came in
# between, Redis is away.
Unkept = Literal["no-store", "no-lifetime", "older", "purged", "store-down"]


@dataclass(frozen=True, slots=True)
class Errand:
    """What a flight is sent for. It began under a purge epoch, when the copy at hand was one fetched at `seen`.

    It is charged to the miss budget of `team`, whose request caused it: directly, as a refresh in grace, or as a
    prefetch.
    """

    query: AssetsQuery
    address: Address
    epoch: str
    seen: float
    request_id: str
    team: str
    forced: bool = False

    @property
    def name(self) -> str:
        """The flight's name. It has the epoch, so that no request joins a flight from before a purge."""
        return f"{self.address.page}@{self.epoch}"


@dataclass(frozen=True, slots=True)
class Landed:
    """What a flight brought: an entry, and whether the vendor was asked for it here, by another replica, or not at all.

    `stored` tells that others will be served with it too, `storable` that the vendor has nothing against that, and
    `window` that it was cut from other pages. `unkept` names what kept it from being stored, `tier` is where it was
    found if the vendor was not asked.
    """

    entry: Entry
    asked: Literal["here", "elsewhere", "nobody"]
    stored: bool = True
    storable: bool = True
    window: bool = False
    unkept: Unkept | None = None
    tier: Tier = "memory"


class Brought(NamedTuple):
    """What an errand brought, and whether somebody else had been sent for it before."""

    landed: Landed
    collapsed: bool


class MissBudget(Protocol):
    """The budgets of teams for requests to the vendor."""

    async def miss(self, team: str) -> None:
        """Charge one request to a team. Raises LimitReached."""
        ...

    def give_back_miss(self, team: str) -> None:
        """Return the token of a request that was not sent."""
        ...

    def may_miss(self, team: str) -> bool:
        """Return whether a request might be admitted, without waiting."""
        ...


class Errands:
    """Flights under way; each may take `deadline` seconds.

    `check` raises the UpstreamError that is certain to come of asking the vendor now, if there is one.
    """

    def __init__(
        self,
        *,
        store: Store,
        turns: Turns,
        fetch: FetchPage,
        check: Callable[[AssetsQuery], None],
        budget: MissBudget,
        limits: Limits,
        lifetimes: Lifetimes,
        deadline: float,
        clock: Clock,
        chance: Callable[[], float],
        emit: Emit,
    ) -> None:
        self._store = store
        self._turns = turns
        self._fetch = fetch
        self._check = check
        self._budget = budget
        self._limits = limits
        self.lifetimes = lifetimes
        self._deadline = deadline
        self._clock = clock
        self._chance = chance
        self._emit = emit
        self._flights: Flights[Landed] = Flights()

    def under_way(self, errand: Errand) -> bool:
        """Whether somebody has been sent for this page."""
        return errand.name in self._flights

    def begin(self, errand: Errand) -> tuple[asyncio.Task[Landed], bool]:
        """The flight of this page, begun if there is none; the flag tells whether this call began it.

        Await it through `asyncio.shield`: it goes on, and is stored, whoever leaves.
        """
        return self._flights.join(errand.name, partial(self._fly, errand))

    async def bring(self, errand: Errand) -> Brought:
        """Wait for the page, however it comes. Raises UpstreamError, or UpstreamRefusal, as the flight did.

        Raises LimitReached when it is this team that would have to pay.
        """
        while True:
            flight, leads = self.begin(errand)
            try:
                return Brought(await asyncio.shield(flight), collapsed=not leads)
            except LimitReached as error:
                if leads or error.team == errand.team:
                    raise
                # Who began the flight cannot pay for it, and who joined it may.

    def refresh(self, errand: Errand) -> None:
        """Begin the flight of this page in the background, unless the miss budget of the team is exhausted."""
        if not self._budget.may_miss(errand.team):
            return
        flight, leads = self.begin(errand)
        if not leads:
            flight.add_done_callback(partial(self._refresh_instead, errand))

    def _refresh_instead(self, errand: Errand, flight: asyncio.Task[Landed]) -> None:
        """Refresh the page after the fetch of another team was refused by that team's miss budget."""
        error = None if flight.cancelled() else flight.exception()
        if isinstance(error, LimitReached) and error.team != errand.team:
            self.refresh(errand)

    async def close(self) -> None:
        """End the flights under way."""
        await self._flights.close()

    async def _fly(self, errand: Errand) -> Landed:
        """Bring one page: fetched by this replica if it is its turn, else by the one whose turn it was."""
        deadline = self._clock.monotonic() + self._deadline
        waited = False
        while True:
            self._check(errand.query)  # before it is our turn, which is better somebody else's then
            async with self._turns.take(errand.name) as turn:
                if turn.failure is not None:
                    raise turn.failure
                found = await self._found(errand, waited=waited or not turn.mine)
                if found is not None:
                    return found
                if turn.mine:
                    self._check(errand.query)  # again: a fetch that will not be made is not charged
                    await self._budget.miss(errand.team)
                    try:
                        return await self._fetched(errand, deadline)
                    except (UpstreamError, UpstreamRefusal) as error:
                        # What keeps this replica from asking need not keep the others, and no request was sent.
                        if isinstance(error, UpstreamCircuitOpen | UpstreamOverloaded):
                            self._budget.give_back_miss(errand.team)
                        else:
                            turn.failure = error
                        raise
            if self._clock.monotonic() >= deadline:
                raise UpstreamTimeout("another replica is still fetching it")
            waited = True

    async def _found(self, errand: Errand, *, waited: bool) -> Landed | None:
        """Look once more: the page may have been stored a moment ago (see `Flights`), or by who had the turn.

        What another replica has just fetched is good enough for those who waited for it, however short it lives.
        """
        shelf = await found_in(self._store, errand.address)
        entry = shelf.entry
        if entry is None or not shelf.current:
            return None
        newer = entry.started > errand.seen
        fresh = isinstance(decide(entry, self._clock.now()), Serve)
        if (fresh and not errand.forced) or (newer and waited):
            asked: Literal["elsewhere", "nobody"] = "elsewhere" if waited else "nobody"
            if entry.last_use <= self._clock.now():
                return Landed(entry, asked, stored=False, unkept="no-lifetime", tier=shelf.tier)
            return Landed(entry, asked, tier=shelf.tier)
        return None

    async def _fetched(self, errand: Errand, deadline: float) -> Landed:
        proof = self._store.proof()
        try:
            fetched = await self._fetch(errand.query, errand.request_id, deadline, errand.team)
        except UpstreamError as error:
            self._emit(FetchFailed(type(error).__name__, str(error)))
            raise
        candidate = admit(errand.query, errand.address.page, fetched, self.lifetimes, self._chance())
        shown = candidate.sight
        if shown.shows_limit(candidate.total):
            self._limits.learn(shown.limit, shown.printed, shown.end - shown.offset, shown.started)
        if not fetched.caching.storable:
            self._emit(VendorForbidsStoring())
            self._store.saw(errand.address, candidate, proof)
            named = unfiled(candidate, errand.epoch)
            return Landed(named, "here", stored=False, storable=False, unkept="no-store")
        try:
            kept = await self._store.keep(errand.address, candidate, errand.epoch, proof)
        except StoreDown:
            return Landed(unfiled(candidate, errand.epoch), "here", stored=False, unkept="store-down")
        if kept.ended:
            self._emit(GenerationEnded())
        if kept.outcome != "kept":
            return Landed(kept.entry, "here", stored=False, unkept=kept.outcome)
        if kept.entry.last_use <= fetched.arrived:
            # The store knows now what the page shows of its listing, but nobody will be served with the page itself.
            return Landed(kept.entry, "here", stored=False, unkept="no-lifetime")
        return Landed(kept.entry, "here")
