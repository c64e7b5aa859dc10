"""Places at the vendor: so many calls at once, and so many waiting for one."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from gateway.core.errors import UpstreamOverloaded
from gateway.core.facts import Observe, UpstreamQueue


class Places:
    """At most so many calls at once, at most so many waiting for a place."""

    def __init__(self, concurrency: int, queue: int, observe: Observe) -> None:
        self._free = asyncio.Semaphore(concurrency)
        self._queue = queue
        self._waiting = 0
        self._inside = 0
        self._observe = observe

    @property
    def idle(self) -> bool:
        """Whether nobody has a place, and nobody waits for one."""
        return not self._inside and not self._waiting

    @asynccontextmanager
    async def take(self, patience: float) -> AsyncIterator[None]:
        """A place, held for the block. Raises UpstreamOverloaded when the queue is full or `patience` ran out."""
        await self._enter(patience)
        try:
            yield
        finally:
            self._free.release()
            self._inside -= 1
            self._tell()

    async def _enter(self, patience: float) -> None:
        if self._free.locked() and self._waiting >= self._queue:
            raise UpstreamOverloaded("too many calls wait for the vendor", retry_after=1.0)
        self._waiting += 1
        self._tell()
        try:
            async with asyncio.timeout(patience):
                await self._free.acquire()
        except TimeoutError:
            raise UpstreamOverloaded("no place in time", retry_after=1.0) from None
        finally:
            self._waiting -= 1
        self._inside += 1
        self._tell()

    def _tell(self) -> None:
        self._observe(UpstreamQueue(self._inside, self._waiting))
