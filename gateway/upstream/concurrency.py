"""Places at the vendor: so many calls at once, and so many waiting for one.

A team that has half of the places, or half of the queue, lets others go first: its flood is its own affair.
"""

from __future__ import annotations

import asyncio
from collections import Counter, deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import NamedTuple

from gateway.core.errors import UpstreamOverloaded
from gateway.core.events import Observe, UpstreamQueue


class _Turn(NamedTuple):
    """Somebody who waits, for whom, and for what."""

    team: str | None
    given: asyncio.Future[None]


class Places:
    """At most `limit` calls at once, which may be changed at any time, and at most `queue` waiting for a place."""

    def __init__(self, limit: int, queue: int, observe: Observe) -> None:
        self._limit = limit
        self._queue = queue
        self._waiting: deque[_Turn] = deque()
        self._inside: Counter[str | None] = Counter()
        self._observe = observe

    @property
    def idle(self) -> bool:
        """Whether nobody has a place, and nobody waits for one."""
        return not self._inside.total() and not self._waiting

    def allow(self, limit: int) -> None:
        """Let so many in at once from now on; who is inside stays."""
        self._limit = limit
        self._admit()

    @asynccontextmanager
    async def take(self, patience: float, team: str | None = None) -> AsyncIterator[None]:
        """A place for a team, held for the block.

        Raises UpstreamOverloaded when the queue is full, when `patience` ran out, or when a place in the queue had to
        be left to another team.
        """
        await self._enter(patience, team)
        try:
            yield
        finally:
            self._leave(team)

    async def _enter(self, patience: float, team: str | None) -> None:
        if self._inside.total() < self._limit and not self._waiting:
            self._inside[team] += 1
            self._tell()
            return
        if len(self._waiting) >= self._queue and not self._makes_room(team):
            raise UpstreamOverloaded("too many calls wait for the vendor", retry_after=1.0)
        turn = _Turn(team, asyncio.get_running_loop().create_future())
        self._waiting.append(turn)
        self._tell()
        try:
            async with asyncio.timeout(patience):
                await turn.given
        except BaseException as error:
            if turn.given.done() and not turn.given.cancelled() and turn.given.exception() is None:
                self._leave(team)  # it was given while we left
            elif turn in self._waiting:
                self._waiting.remove(turn)
                self._tell()
            if isinstance(error, TimeoutError):
                raise UpstreamOverloaded("no place in time", retry_after=1.0) from None
            raise

    def _leave(self, team: str | None) -> None:
        self._inside[team] -= 1
        if not self._inside[team]:
            del self._inside[team]
        self._admit()
        self._tell()

    def _admit(self) -> None:
        while self._waiting and self._inside.total() < self._limit:
            turn = self._next()
            self._waiting.remove(turn)
            if not turn.given.done():
                self._inside[turn.team] += 1
                turn.given.set_result(None)

    def _next(self) -> _Turn:
        """The first in the queue whose team has less than half of the places, or simply the first."""
        half = self._limit / 2
        return next((turn for turn in self._waiting if self._inside[turn.team] < half), self._waiting[0])

    def _makes_room(self, team: str | None) -> bool:
        """Turn away the last in the queue of a team that fills more than half of it, for one of another team."""
        team_of_most, count = (
            Counter(turn.team for turn in self._waiting).most_common(1)[0] if self._waiting else (team, 0)
        )
        if team_of_most == team or count <= self._queue / 2:
            return False
        last = next(turn for turn in reversed(self._waiting) if turn.team == team_of_most)
        self._waiting.remove(last)
        if not last.given.done():
            last.given.set_exception(UpstreamOverloaded("another team's call goes first", retry_after=1.0))
        return True

    def _tell(self) -> None:
        self._observe(UpstreamQueue(self._inside.total(), len(self._waiting)))
