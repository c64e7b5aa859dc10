"""Clients that ask all the time, while something happens to the gateway."""

from __future__ import annotations

import asyncio
import itertools
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from harness import PATIENCE, Reply


@dataclass
class Load:
    """What they were answered, and after how many seconds, in the order of the answers."""

    replies: list[Reply] = field(default_factory=list)
    took: list[float] = field(default_factory=list)
    clients: list[asyncio.Task[None]] = field(default_factory=list)

    @property
    def statuses(self) -> Counter[int]:
        return Counter(reply.status for reply in self.replies)

    async def more(self, count: int) -> list[float]:
        """Wait for so many more answers, and give what they took."""
        start = len(self.replies)
        async with asyncio.timeout(2 * PATIENCE):
            while len(self.replies) < start + count:
                await asyncio.sleep(0.005)
                for client in self.clients:
                    if client.done():
                        client.result()  # which tells why it ended
        return self.took[start:]


@asynccontextmanager
async def loading(
    ask: Callable[[int], Awaitable[Reply]], *, clients: int = 8, pause: float = 0.0
) -> AsyncIterator[Load]:
    """Have so many clients ask, each with the next number, and see each to its end."""
    load, numbers, over = Load(), itertools.count(), asyncio.Event()

    async def client() -> None:
        while not over.is_set():
            began = time.monotonic()
            reply = await ask(next(numbers))
            load.took.append(time.monotonic() - began)
            load.replies.append(reply)
            await asyncio.sleep(pause)

    load.clients += [asyncio.create_task(client()) for _ in range(clients)]
    try:
        yield load
        over.set()
        async with asyncio.timeout(PATIENCE):
            await asyncio.gather(*load.clients)
    finally:
        for task in load.clients:
            task.cancel()
        await asyncio.gather(*load.clients, return_exceptions=True)
