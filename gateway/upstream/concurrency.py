"""Limit the calls to the vendor that are in flight, and those that wait.

A team that uses half of the limit, or half of the queue, lets other teams go first.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from gateway.core.errors import UpstreamOverloaded
from gateway.core.events import Emit, UpstreamQueue


class Waiter(NamedTuple):
    """Somebody who waits, for whom, and for what."""

    team: str | None
    admitted: asyncio.Future[None]


class ConcurrencyLimiter:
    """At most `limit` calls at once, which may be changed at any time, and at most `queue` waiting for a place."""

    def __init__(self, limit: int, queue: int, emit: Emit) -> None:
        self._limit = limit
        self._queue = queue
        self._waiting: deque[Waiter] = deque()
        self._in_flight: Counter[str | None] = Counter()
        self._emit = emit

    @property
    def idle(self) -> bool:
        """Whether nobody has a place, and nobody waits for one."""
        return not self._in_flight.total() and not self._waiting

    def set_limit(self, limit: int) -> None:
        """Let so many in at once from now on; who is inside stays."""
        self._limit = limit
        self._admit()

    @asynccontextmanager
    async def acquire(self, patience: float, team: str | None = None) -> AsyncIterator[None]:
        """A place for a team, held for the block.

        Raises UpstreamOverloaded when the queue is full, when `patience` ran out, or when a place in the queue had to
        be left to another team.
        """
        await self._acquire(patience, team)
        try:
            yield
        finally:
            self._release(team)

    async def _acquire(self, patience: float, team: str | None) -> None:
        if self._in_flight.total() < self._limit and not self._waiting:
            self._in_flight[team] += 1
            self._report()
            return
        if len(self._waiting) >= self._queue and not self._makes_room(team):
            raise UpstreamOverloaded("too many calls wait for the vendor", retry_after=1.0)
        waiter = Waiter(team, asyncio.get_running_loop().create_future())
        self._waiting.append(waiter)
        self._report()
        try:
            async with asyncio.timeout(patience):
                await waiter.admitted
        except BaseException as error:
            if waiter.admitted.done() and not waiter.admitted.cancelled() and waiter.admitted.exception() is None:
                self._release(team)  # it was given while we left
            elif waiter in self._waiting:
                self._waiting.remove(waiter)
                self._report()
            if isinstance(error, TimeoutError):
                raise UpstreamOverloaded("no place in time", retry_after=1.0) from None
            raise

    def _release(self, team: str | None) -> None:
        self._in_flight[team] -= 1
        if not self._in_flight[team]:
            del self._in_flight[team]
        self._admit()
        self._report()

    def _admit(self) -> None:
        while self._waiting and self._in_flight.total() < self._limit:
            waiter = self._next()
            self._waiting.remove(waiter)
            if not waiter.admitted.done():
                self._in_flight[waiter.team] += 1
                waiter.admitted.set_result(None)

    def _next(self) -> Waiter:
        """The first in the queue whose team has less than half of the places, or simply the first."""
        half = self._limit / 2
        return next((waiter for waiter in self._waiting if self._in_flight[waiter.team] < half), self._waiting[0])

    def _makes_room(self, team: str | None) -> bool:
        """Turn away the last in the queue of a team that fills more than half of it, for one of another team."""
        team_of_most, count = (
            Counter(waiter.team for waiter in self._waiting).most_common(1)[0] if self._waiting else (team, 0)
        )
        if team_of_most == team or count <= self._queue / 2:
            return False
        last = next(waiter for waiter in reversed(self._waiting) if waiter.team == team_of_most)
        self._waiting.remove(last)
        if not last.admitted.done():
            last.admitted.set_exception(UpstreamOverloaded("another team's call goes first", retry_after=1.0))
        return True

    def _report(self) -> None:
        self._emit(UpstreamQueue(self._in_flight.total(), len(self._waiting)))
