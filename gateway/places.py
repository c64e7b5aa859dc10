"""Places at the vendor: so many calls at once, and so many waiting for one."""

from __future__ import annotations

import asyncio
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.core.errors import UpstreamOverloaded
from gateway.core.facts import Observe, UpstreamQueue


class Places:
    """At most `limit` calls at once, which may be changed at any time, and at most `queue` waiting for a place."""

    def __init__(self, limit: int, queue: int, observe: Observe) -> None:
        self._limit = limit
        self._queue = queue
        self._waiting: deque[asyncio.Future[None]] = deque()
        self._inside = 0
        self._observe = observe

    @property
    def idle(self) -> bool:
        """Whether nobody has a place, and nobody waits for one."""
        return not self._inside and not self._waiting

    def allow(self, limit: int) -> None:
        """Let so many in at once from now on; who is inside stays."""
        self._limit = limit
        self._admit()

    @asynccontextmanager
    async def take(self, patience: float) -> AsyncIterator[None]:
        """A place, held for the block. Raises UpstreamOverloaded when the queue is full or `patience` ran out."""
        await self._enter(patience)
        try:
            yield
        finally:
            self._inside -= 1
            self._admit()
            self._tell()

    async def _enter(self, patience: float) -> None:
        if self._inside < self._limit and not self._waiting:
            self._inside += 1
            self._tell()
            return
        if len(self._waiting) >= self._queue:
            raise UpstreamOverloaded("too many calls wait for the vendor", retry_after=1.0)
        turn: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        self._waiting.append(turn)
        self._tell()
        try:
            async with asyncio.timeout(patience):
                await turn
        except BaseException as error:
            if turn.done() and not turn.cancelled():
                self._inside -= 1  # it was given while we left
            else:
                self._waiting.remove(turn)
            self._admit()
            self._tell()
            if isinstance(error, TimeoutError):
                raise UpstreamOverloaded("no place in time", retry_after=1.0) from None
            raise

    def _admit(self) -> None:
        while self._waiting and self._inside < self._limit:
            turn = self._waiting.popleft()
            if not turn.done():
                self._inside += 1
                turn.set_result(None)

    def _tell(self) -> None:
        self._observe(UpstreamQueue(self._inside, len(self._waiting)))
