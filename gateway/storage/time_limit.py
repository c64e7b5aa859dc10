"""A time limit on somebody else's work that our own slowness does not use up.

When a thousand requests arrive at once, the loop is busy for longer than a Redis command may take; the answer is then
there, and has not been looked at. So a timer that comes late gives as much time as it was late by, the limit at most,
and one that comes in time lets the loop turn a few times more, which takes microseconds where nothing else is to be
done. A server that hangs while we are idle costs exactly the limit; a busy gateway does not take Redis for a dead one.

The work is a task of its own, which is cancelled and not waited for: a client library may take its time to give up.
"""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, TypeVar

T = TypeVar("T")

# A timer of an idle loop is late by less than a millisecond.
_LATE = 0.005
# Against a loop that is late for ever.
_MOST_EXTENSIONS = 20
# From bytes in a socket to the coroutine that awaits them is a handful of turns.
_TURNS = 20


async def within(seconds: float, work: Coroutine[Any, Any, T]) -> T:
    """What the work returns or raises; TimeoutError after `seconds` of it, the loop's own delays left out."""
    loop = asyncio.get_running_loop()
    task = loop.create_task(work)
    over: asyncio.Future[None] = loop.create_future()

    def end(_: object = None) -> None:
        if not over.done():
            over.set_result(None)

    limit = Limit(loop, seconds, end)
    task.add_done_callback(end)
    try:
        await over
    finally:
        limit.cancel()
        task.cancel()
        task.add_done_callback(forget)  # it may have failed in the moment in which we were cancelled
    if not task.done():
        raise TimeoutError
    return task.result()


def forget(task: asyncio.Task[Any]) -> None:
    """Take in how a task ended that nobody waits for: asyncio complains of errors that nobody has seen."""
    if not task.cancelled():
        task.exception()  # nobody waits for it any more


class Limit:
    """Call `end` after `seconds`, the loop's own delays left out, unless it is cancelled before."""

    def __init__(self, loop: asyncio.AbstractEventLoop, seconds: float, end: Callable[[], None]) -> None:
        self._loop = loop
        self._seconds = seconds
        self._end = end
        self._extensions = 0
        self._handle: asyncio.Handle
        self._begin(seconds)

    def cancel(self) -> None:
        """Call nothing."""
        self._handle.cancel()

    def _begin(self, seconds: float) -> None:
        expected = self._loop.time() + seconds
        self._handle = self._loop.call_at(expected, self._due, expected)

    def _due(self, expected: float) -> None:
        late = self._loop.time() - expected
        if late > _LATE and self._extensions < _MOST_EXTENSIONS:
            self._extensions += 1
            self._begin(min(late, self._seconds))
        else:
            self._turn(_TURNS)

    def _turn(self, left: int) -> None:
        if left:
            self._handle = self._loop.call_soon(self._turn, left - 1)
        else:
            self._end()
