"""A time limit on somebody else's work that our own slowness does not use up.

When a thousand requests arrive at once, the loop is busy for longer than a Redis command may take; the answer is then
there, and has not been looked at. So a timer that comes late begins the limit anew, and one that comes in time lets the
loop turn a few times more, which takes microseconds where nothing else is to be done. A server that hangs while we are
idle costs exactly the limit; a busy gateway does not take Redis for a dead one.
"""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

# A timer of an idle loop is late by less than a millisecond.
_LATE = 0.005
# Against a loop that is late for ever.
_MOST_EXTENSIONS = 20
# From bytes in a socket to the coroutine that awaits them is a handful of turns.
_TURNS = 20


@asynccontextmanager
async def time_limit(seconds: float) -> AsyncIterator[None]:
    """Like `asyncio.timeout(seconds)`, TimeoutError included, but for time in which the loop was busy."""
    loop = asyncio.get_running_loop()
    extensions = 0
    handle: asyncio.Handle

    def due(expected: float) -> None:
        nonlocal extensions, handle
        now = loop.time()
        if now - expected > _LATE and extensions < _MOST_EXTENSIONS:
            extensions += 1
            handle = loop.call_at(now + seconds, due, now + seconds)
        else:
            turn(_TURNS)

    def turn(left: int) -> None:
        nonlocal handle
        if left == 0:
            scope.reschedule(loop.time())
        else:
            handle = loop.call_soon(turn, left - 1)

    async with asyncio.timeout(None) as scope:
        first = loop.time() + seconds
        handle = loop.call_at(first, due, first)
        try:
            yield
        finally:
            handle.cancel()
