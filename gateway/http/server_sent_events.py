"""Server-sent events (WHATWG HTML, section 9.2): made once, sent to all who look, kept for nobody.

A viewer gets the latest events and never those that it missed, so that a slow one is behind by nothing but what its
connection holds; one that does not take even that is let go.
"""

from __future__ import annotations

import asyncio
import logging
import socket
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from aiohttp import web

from gateway.core.clock import Clock
from gateway.http.errors import Problem

_EVERY_SECONDS = 1.0
# What a viewer has not taken after this long it does not want.
_SLOW_SECONDS = 10.0
_RETRY_MILLISECONDS = 2000
# The kernel would let a connection that nobody reads grow to megabytes.
_SEND_BUFFER = 65_536
_HEADERS = {
    "Content-Type": "text/event-stream",
    "Cache-Control": "no-store",
    "X-Content-Type-Options": "nosniff",
    "X-Accel-Buffering": "no",  # nginx would hold events back
}

_log = logging.getLogger("gateway")


class Broadcast:
    """Calls `make` about once a second while somebody looks, `most` viewers at once, until it is closed."""

    def __init__(self, make: Callable[[], Awaitable[bytes]], clock: Clock, most: int) -> None:
        self._make = make
        self._clock = clock
        self._most = most
        self._viewers = 0
        self._latest = b""
        self._made = asyncio.Event()
        self._making: asyncio.Task[None] | None = None
        self._closed = False

    def stream(self) -> EventStream:
        """The answer for one more viewer. Raises Problem when there are too many, or no more events."""
        if self._closed or self._viewers >= self._most:
            why = "this instance is going away" if self._closed else "too many look at this already"
            raise Problem(503, "overloaded", why, headers={"Retry-After": "5"})
        return EventStream(self)

    @contextmanager
    def viewed(self) -> Iterator[None]:
        """Somebody looks, for the block."""
        self._viewers += 1
        if self._making is None:
            self._making = asyncio.create_task(self._keep_making())
            self._making.add_done_callback(self._ended)
        try:
            yield
        finally:
            self._viewers -= 1
            if not self._viewers and self._making is not None:
                self._making.cancel()
                self._making = None

    async def next(self) -> bytes | None:
        """The next events, or None when there will be no more."""
        if not self._closed:
            await self._made.wait()
        return None if self._closed else self._latest

    def close(self) -> None:
        """Let go of all viewers, and of those who come."""
        self._closed = True
        self._made.set()

    async def _keep_making(self) -> None:
        while True:
            self._latest = await self._make()
            made, self._made = self._made, asyncio.Event()
            made.set()
            await self._clock.sleep(_EVERY_SECONDS)

    def _ended(self, making: asyncio.Task[None]) -> None:
        if not making.cancelled() and (error := making.exception()) is not None:
            _log.error("events cannot be made", extra={"error": type(error).__name__})
            self.close()


class EventStream(web.StreamResponse):
    """An answer that lasts as long as its viewer looks; `sent` is the bytes of it."""

    def __init__(self, broadcast: Broadcast) -> None:
        super().__init__(headers=_HEADERS)
        self._broadcast = broadcast
        self.sent = 0

    async def run(self, request: web.BaseRequest) -> None:
        """Send events until there are no more, or nobody takes them."""
        with self._broadcast.viewed():
            try:
                await self.prepare(request)
                if request.method != "HEAD":
                    await self._send_all(request)
            except ConnectionError:
                pass  # the viewer went away
            except TimeoutError:
                if request.transport is not None:
                    request.transport.abort()

    async def _send_all(self, request: web.BaseRequest) -> None:
        sock = request.get_extra_info("socket")
        if sock is not None:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _SEND_BUFFER)
        data: bytes | None = b"retry: %d\n\n" % _RETRY_MILLISECONDS
        while data is not None:
            async with asyncio.timeout(_SLOW_SECONDS):
                await self.write(data)
            self.sent += len(data)
            data = await self._broadcast.next()
